"""From descriptors to ranked lists: the local index, geometric verification and the search
pipeline."""
