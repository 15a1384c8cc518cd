"""Sweep files, and the parameters of the next trial."""
