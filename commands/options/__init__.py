"""Options that several verbs share, and how verbs report errors."""
