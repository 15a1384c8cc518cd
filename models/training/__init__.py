"""How models are trained and sampled: the contract, what models may be able to do, the two loops."""
