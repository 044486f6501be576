"""The queues between stages, joins, and the pace of files. Imports `packet` and `measurement`."""
