"""Flax nnx networks (backbones, the attention scorer, DELF) and their weight files."""
