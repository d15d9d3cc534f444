"""Notebooks executed without a browser: the runner, sweeps, workers, and the rules a notebook
obeys."""
