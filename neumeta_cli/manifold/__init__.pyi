from .blueprint import (
    Blueprint as Blueprint,
    Provenance as Provenance,
    rebuild_frame as rebuild_frame,
)
from .file import (
    blueprint_from_json as blueprint_from_json,
    blueprint_to_json as blueprint_to_json,
    bytes_by_part as bytes_by_part,
    check_opens as check_opens,
    load_manifold as load_manifold,
    save_manifold as save_manifold,
)
from .inr import (
    KINDS as KINDS,
    AnyInrSettings as AnyInrSettings,
    Inr as Inr,
    InrSettings as InrSettings,
    Moments as Moments,
    Normed as Normed,
    Noise as Noise,
    TensorSpec as TensorSpec,
    inr_settings as inr_settings,
)
from .live import LiveNetwork as LiveNetwork
from .manifold import Manifold as Manifold, build_manifold as build_manifold
from .repeated import RepeatedDraws as RepeatedDraws
