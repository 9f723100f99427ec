from .arch import (
    Arch as Arch,
    import_attribute as import_attribute,
    recorded_arch as recorded_arch,
    resolve as resolve,
)
from .assign import (
    other_names as other_names,
    put_tensors as put_tensors,
    take_weights as take_weights,
)
from .atomic import write_atomically as write_atomically, write_text as write_text
from .cuts import (
    MOST_ADDED as MOST_ADDED,
    Cut as Cut,
    InputSize as InputSize,
    parse_size as parse_size,
)
from .files import (
    SUFFIXES as SUFFIXES,
    require_there as require_there,
    suffix_of as suffix_of,
)
from .given import (
    keep_given as keep_given,
    needs_permission as needs_permission,
    was_given as was_given,
)
from .integrity import (
    BLANK as BLANK,
    DIGEST as DIGEST,
    check_archive as check_archive,
    first_line as first_line,
    is_sealed as is_sealed,
    parse_metadata as parse_metadata,
    refusing as refusing,
    seal as seal,
)
from .load import (
    Checkpoint as Checkpoint,
    is_narrowed as is_narrowed,
    load_checkpoint as load_checkpoint,
    materialise as materialise,
)
from .loose import loose_tensors as loose_tensors
from .usable import (
    STATISTICS as STATISTICS,
    check_hooks as check_hooks,
    check_resizable as check_resizable,
)
from .version import (
    COMPACT_VERSION as COMPACT_VERSION,
    FORMAT_VERSION as FORMAT_VERSION,
    MANIFOLD as MANIFOLD,
    NETWORK as NETWORK,
    check_version as check_version,
)
from .weights import (
    METADATA_KEY as METADATA_KEY,
    Weights as Weights,
    file_hash as file_hash,
    read_weights as read_weights,
    write_weights as write_weights,
)
