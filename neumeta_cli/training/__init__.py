"""Training: one loop for the fit and for ordinary training, which stops and resumes anywhere."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
