"""The published benchmarks, each read in the layout that its authors distribute."""
