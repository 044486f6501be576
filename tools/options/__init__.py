"""Options of the command line that several commands share, or that are too many for a command's own file."""
