"""Checkpoints of official codes, read without running what they hold."""
