"""Calls that nobody talks in, placed to see whether calls work."""
