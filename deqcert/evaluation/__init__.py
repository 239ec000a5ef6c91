"""What a model is worth, from many sides: parts that are measured each on its own."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
