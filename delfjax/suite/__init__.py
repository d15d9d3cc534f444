"""What the notebooks share: settings, data, trained stages, run folders, the runner and the
report."""
