from .blocks import JUDGING as JUDGING, expendable_blocks as expendable_blocks
from .fit import FitResult as FitResult, Fitter as Fitter, fit_manifold as fit_manifold
from .job import distill_checkpoint as distill_checkpoint, open_fit as open_fit
