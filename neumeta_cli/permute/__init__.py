"""Permuting channels so that weights vary smoothly along them (intra-model smoothness)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
