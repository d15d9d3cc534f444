"""Run folders: their layout, where they came from, and how finished runs compare."""
