"""What watches a fit. Callbacks touch a model only through the contract of `models.training.base`."""
