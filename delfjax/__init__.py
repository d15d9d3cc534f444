"""delfjax: attentive deep local features (DELF) for instance-level image retrieval, in JAX.

The library is layered (``tests/unit/test_layering.py`` enforces it); a photo flows one way:
file → image → dense features → attention → local features → store → index → ranked list → verified
list → score.

``__init__.pyi`` lists the names that ``import delfjax`` offers; each loads what it needs when it is
first used.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
