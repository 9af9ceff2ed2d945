"""A miss: how much to read, reading it from the source, and what is recorded when the source fails."""
