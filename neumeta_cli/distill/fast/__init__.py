"""The same numbers sooner: batch norms and channel counts that CPU kernels are quick with."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
