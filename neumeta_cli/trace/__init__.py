"""Tracing: which dimension of which weight is tied to which, from one run on meta tensors."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
