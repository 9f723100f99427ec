from .base import Inr as Inr, InrSettings as InrSettings, Store as Store
from .coordinates import (
    Noise as Noise,
    Target as Target,
    TensorSpec as TensorSpec,
    tensor_specs as tensor_specs,
)
from .kinds import (
    KINDS as KINDS,
    AnyInrSettings as AnyInrSettings,
    inr_settings as inr_settings,
    own_fields as own_fields,
)
from .moments import Measure as Measure, Moments as Moments, Normed as Normed
