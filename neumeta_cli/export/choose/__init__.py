"""Which network of a manifold: widths that are wished for, budgets, and a search."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
