"""delfjax: attentive deep local features (DELF) for instance-level image retrieval, in JAX.

The library is layered (``tests/unit/test_layering.py`` enforces it); a photo flows one way:
file → image → dense features → attention → local features → store → index → ranked list → verified
list → score.

``__init__.pyi`` lists the names that ``import delfjax`` offers; each loads what it needs when it is
first used.
"""

from __future__ import annotations

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # lazy_loader itself takes most of the time of `import delfjax`, which the command line needs
    # before it can answer Ctrl-C.
    import lazy_loader  # noqa: PLC0415 - only when a name is first used

    loaded = lazy_loader.attach_stub(__name__, __file__)
    globals().update(zip(("__getattr__", "__dir__", "__all__"), loaded, strict=True))
    return globals()["__all__"] if name == "__all__" else loaded[0](name)


def __dir__() -> list[str]:
    return list(__getattr__("__all__"))
