"""The landmark world: photographs of landmarks that do not exist, with everything about them
exactly known.

A deterministic renderer casts rays at textured solids: monuments in families that look alike, the
houses and trees around them, people and vehicles before them, under any sky. Each challenge of
instance retrieval is a knob (:mod:`~delfjax.world.challenges`). ``knobs`` says how large and
hard a world is, ``census`` what is in it, ``photography`` how a photograph comes about,
``rendering`` makes it, ``writing`` writes all of them, ``reading`` reads them.

``__init__.pyi`` lists the names that notebooks import from here; each is loaded when it is used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
