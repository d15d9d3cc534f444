"""Pure jit-able maths: receptive fields, pyramid, convolution, pooling, selection, matching and
geometry."""
