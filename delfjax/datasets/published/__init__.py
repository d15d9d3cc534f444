"""The published benchmarks, each read from the files and in the layout its authors distribute."""
