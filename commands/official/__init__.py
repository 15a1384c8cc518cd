"""Reads checkpoints of official codes, without running any code that they hold."""
