"""Pure jit-able maths: receptive fields, pyramid, convolution, pooling, selection, geometry.

What exists only because of how XLA compiles for a CPU lies in :mod:`~delfjax.ops.cpu`.
"""
