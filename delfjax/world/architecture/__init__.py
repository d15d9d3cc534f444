"""The grammar of landmarks: ten kinds of monuments, in families whose members look alike.

Start in :mod:`~delfjax.world.architecture.grammar`.
"""
