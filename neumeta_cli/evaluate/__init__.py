"""Metrics, cost and latency of networks over widths, pruning beside them, and pictures."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
