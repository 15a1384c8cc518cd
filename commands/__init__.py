"""The verbs of the command line, one file each, with `run(arguments) -> exit code`; shared code is in subfolders.

Torch and Lightning are imported inside `run`, after the arguments are checked, so that help and typing errors come
at once.
"""
