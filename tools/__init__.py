"""The command line, one command a file: it parses options and calls what does the work, here or below.

Rooms: `options` shared by commands, `service` and `profiling` for the two big commands, and a room for each
family of commands. May import operators, engines and pipeline; rooms do not import the commands beside them.
"""
