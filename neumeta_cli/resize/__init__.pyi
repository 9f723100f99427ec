from .adapt import resizable as resizable
from .blocks import across as across
from .cost import Cost as Cost, measure_cost as measure_cost
from .depth import (
    PassOn as PassOn,
    Run as Run,
    added_blocks as added_blocks,
    check_depth as check_depth,
    find_runs as find_runs,
    without_blocks as without_blocks,
)
from .fold import fold_batch_norm as fold_batch_norm, foldable_pairs as foldable_pairs
from .cutting import cut_down as cut_down
from .frame import (
    Frame as Frame,
    Sizes as Sizes,
    Width as Width,
    open_folded as open_folded,
    open_frame as open_frame,
)
from .longer import (
    added_names as added_names,
    name_in_block as name_in_block,
    silent_weights as silent_weights,
)
from .layouts import (
    TRANSPOSED as TRANSPOSED,
    Layout as Layout,
    weight_layouts as weight_layouts,
)
from .network import (
    build_resized as build_resized,
    move_constants as move_constants,
    resize_model as resize_model,
    resized_shapes as resized_shapes,
)
from .norms import (
    calibrate as calibrate,
    calibration_batches as calibration_batches,
    drop_statistics as drop_statistics,
    has_statistics as has_statistics,
)
from .scope import resolve_scope as resolve_scope
from .select import (
    kept_places as kept_places,
    place_channels as place_channels,
    rank_channels as rank_channels,
    ranks_of as ranks_of,
    select_channels as select_channels,
)
from .sizes import (
    channels_at as channels_at,
    check_width as check_width,
    linked_cliques as linked_cliques,
    sizes_at as sizes_at,
)
from .widen import channel_counts as channel_counts, widened_places as widened_places
