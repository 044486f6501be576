"""Errors that posestream raises on purpose: the base class, and those of graphs and runs.

Every message is one line that says what was found, what was expected and what to do next. The command line
prints it and turns the class into an exit code.
"""

import difflib


class PosestreamError(Exception):
    """Base of all errors that posestream raises on purpose. The message explains the error."""


class PipelineError(PosestreamError):
    """Base of all errors of graphs, sources, sinks and runs."""


class ConfigError(PipelineError):
    """A graph, an option or a command is refused before anything runs."""


class OptionError(ConfigError):
    """An option of an operator cannot work; the graph adds file, line and node to the message."""

    def __init__(self, option: str, message: str):
        super().__init__(message)
        self.option = option


class SourceError(PipelineError):
    """A source cannot be opened, or is not what it claims to be."""


class SinkError(PipelineError):
    """A sink cannot write; the file is valid up to here."""


class RunError(PipelineError):
    """A stage failed while the graph was running."""


class UnaccountedError(RunError):
    """A run over files has ended, and stages have swallowed, repeated, invented or reordered packets."""


def nearest(name: str, names: list[str]) -> str:
    """A hint for a message: the name most similar to `name`, or else the whole list."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(names)}"
