"""Flax nnx networks: backbones, the attention scorer, DELF; and where their weights come from."""
