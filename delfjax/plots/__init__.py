"""Figures from arrays.

Each function returns a :class:`matplotlib.figure.Figure`, which it neither shows nor saves.
:mod:`~delfjax.plots.style` sets colours and sizes, :mod:`~delfjax.plots.photographs` draws on
photos, :mod:`~delfjax.plots.charts` draws numbers. Nothing here touches the global state of
``pyplot``. ``__init__.pyi`` lists the names; matplotlib is loaded by the first that is used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
