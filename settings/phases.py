"""Phases of a fit, by which time and memory are reported."""

OUTSIDE_STEPS = ("sampling", "metrics", "checkpoint", "likelihood")
"""Phases that are not part of a training step. Every other phase that a model or a callback names is."""
