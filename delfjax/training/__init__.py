"""Training from image labels alone: descriptors by classification, then attention by classifying
attention-weighted pooled features."""
