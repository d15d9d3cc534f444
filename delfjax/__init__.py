"""delfjax: attentive deep local features (DELF) for instance-level image retrieval, in JAX.

The library is layered (``tests/unit/test_layering.py`` enforces it); a photo flows one way:
file → image → dense features → attention → local features → store → index → ranked list → verified
list → score.
"""

__version__ = "0.1.0"
