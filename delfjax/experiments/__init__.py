"""Experiments: whole pipelines over a dataset, run folders, headless notebooks."""
