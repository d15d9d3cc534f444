"""Scores of ranked lists: average precision and the protocols built on it."""
