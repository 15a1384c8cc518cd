"""Compares runs: figures grouped by protocol, tables, and a page; without torch."""
