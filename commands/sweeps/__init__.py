"""W&B's sweep files, and what the next trial gets."""
