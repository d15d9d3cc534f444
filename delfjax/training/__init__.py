"""Training from image labels alone: descriptors by classification, then attention by
attention-weighted pooling."""
