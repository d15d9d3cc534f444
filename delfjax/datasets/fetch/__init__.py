"""Getting a published dataset onto this disk: addresses, downloads that resume, safe unpacking."""
