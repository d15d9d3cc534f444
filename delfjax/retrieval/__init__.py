"""From descriptors to ranked answers: the local index, geometric verification and the search
pipeline."""
