"""Fetching published datasets: addresses, downloads that resume, safe unpacking."""
