"""The landmark world: photographs of landmarks that do not exist, with everything about them
exactly known.

A deterministic renderer casts rays at textured solids: monuments in families that look alike, the
houses and trees around them, people and vehicles before them, under any sky. Each challenge of
instance retrieval is a knob (:mod:`~delfjax.world.challenges`). ``config`` says how large and
hard a world is, ``census`` what is in it, ``photography`` how a photograph comes about,
``rendering`` makes it, ``building`` writes all of them, ``opening`` reads them.
"""
