"""Neural Metamorphosis: one pretrained checkpoint in, networks of any width out.

Whatever a script or a notebook needs is here; a name's own module, and torch with it, is imported
when the name is first used.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
