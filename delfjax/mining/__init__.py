"""Landmarks found in photos of which only the position is known.

``__init__.pyi`` lists the names that notebooks import from here; each is loaded when it is used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
