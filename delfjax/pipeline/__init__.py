"""The calls that commands and notebooks share: from photos to answers, and from a labelled dataset
to its scores, for one system or for several in one pass."""
