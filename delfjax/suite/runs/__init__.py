"""Run folders: their layout, their provenance, and the comparison of finished runs."""
