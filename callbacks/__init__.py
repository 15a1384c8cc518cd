"""Callbacks of a fit. They use a model only through the contract of `models.training.base`."""
