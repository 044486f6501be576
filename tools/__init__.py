"""The command line, one command a file; thin: the work is done by what it calls."""
