"""Landmarks found in photos of which only the position is known."""
