"""The verbs of the command line, one file each, with `run(arguments) -> exit code`."""
