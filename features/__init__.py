"""Networks that turn pictures into features, for metrics and for losses."""
