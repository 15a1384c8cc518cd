"""The verbs of the command line, one file each, with `run(arguments) -> exit code`; what they share lies in rooms.

Torch and Lightning are imported within `run`, once the arguments are known to be right: help and typing errors answer
at once.
"""
