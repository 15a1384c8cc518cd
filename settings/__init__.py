"""Settings and how objects describe themselves as plain data; without torch."""
