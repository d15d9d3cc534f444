"""The landmark world: photographs of landmarks that do not exist, and the exact truth about them.

A deterministic renderer casts rays at textured solids: monuments in families that look alike, the
houses and trees around them, the people and vehicles in front of them, under any sky. Each
challenge of instance retrieval is a knob (:mod:`~delfjax.world.challenges`).

- :mod:`~delfjax.world.knobs`: how large and how hard a world is.
- :mod:`~delfjax.world.census`: which landmarks it has, where they stand, which photographs show
  them. The landmarks come from :mod:`~delfjax.world.architecture.grammar`.
- :mod:`~delfjax.world.photography`: the place, time, camera and surroundings of one photograph.
- :mod:`~delfjax.world.scene`: what is rendered: camera, film, light, ground and solids.
- :mod:`~delfjax.world.rendering`: a scene becomes pixels, or the exact truth about each pixel.
- :mod:`~delfjax.world.writing` and :mod:`~delfjax.world.reading`: a world on disk.

``__init__.pyi`` lists the names that notebooks import from here; each is loaded when it is used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
