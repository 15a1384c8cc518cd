"""What can be set: how things describe themselves in plain data, and every setting with its meaning; without torch."""
