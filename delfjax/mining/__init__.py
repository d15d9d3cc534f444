"""Mining landmarks from photos of which only the position is known.

- :mod:`~delfjax.mining.mine`: from a feature store and positions to landmarks; start here.
- :mod:`~delfjax.mining.visual_graph`: which photos match each other.
- :mod:`~delfjax.mining.communities`: which of them show the same landmark.
- :mod:`~delfjax.mining.mined_files`: results on disk.

How well mined landmarks agree with true ones is scored by :mod:`delfjax.evaluation.mining_scores`.
``__init__.pyi`` lists the names that notebooks import from here; each is loaded when it is used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
