"""Pictures and animations as files; files written whole or not at all. Importing `media.files` imports no torch."""
