"""What the commands and the notebooks both call: photos to answers in a few calls, and a labelled
dataset to its scores, for one system or for several in one pass."""
