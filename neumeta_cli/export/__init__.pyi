from .choose.budget import Budget as Budget
from .description import describe as describe
from .family import export_family as export_family
from .loading import kind_of as kind_of, load as load
from .planning import Order as Order, Planned as Planned, export_planned as export_planned
from .precision import DTYPES as DTYPES, accept_float32 as accept_float32
from .choose.wish import Choice as Choice, Wish as Wish
from .saving import rewrite as rewrite, save as save
from .write import (
    AS_SAMPLED as AS_SAMPLED,
    SUFFIXES as SUFFIXES,
    Exported as Exported,
    Finish as Finish,
    check_ending as check_ending,
    export_network as export_network,
)
