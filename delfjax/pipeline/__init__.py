"""From a labelled dataset to its scores: one system, or several in one pass over the photos."""
