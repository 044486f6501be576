"""The exit codes of the command `posestream`."""

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
