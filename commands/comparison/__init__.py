"""Runs side by side: figures sorted by protocol, tables, and a page of them; without torch."""
