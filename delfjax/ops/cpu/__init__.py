"""What exists only because of how XLA compiles for a CPU: the same numbers as the plain form,
faster."""
