"""Running notebooks without a browser: the runner, sweeps, workers, and the rules that notebooks
obey."""
