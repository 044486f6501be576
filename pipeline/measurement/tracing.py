"""What a run can be told to report of its work as it happens, for profiles and traces."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from pipeline.operator import RunInfo
from pipeline.packet import Item, Taken


class Span(NamedTuple):
    """One call of a stage: a batch, or one item of a source (nothing was taken then)."""

    stage: str
    worker: int | str  # its number; of a source the stream's name
    start_ns: int  # monotonic
    end_ns: int
    cpu_ns: int  # processor time of the stage's own thread
    taken: Sequence[Taken]
    results: Sequence[Item]


class Tracer(ABC):
    """Is told what the stages of one process do, by their threads, so it has to be quick about it.

    It must pickle before `begin`: a run in several processes has a copy in each.
    """

    @abstractmethod
    def begin(self, run: RunInfo) -> None:
        """The run is about to open its operators, one stage behind the other."""

    @abstractmethod
    def opened(self, stage: str) -> None:
        """All operators of a stage are open."""

    @abstractmethod
    def enter(self, stage: str, worker: int | str) -> None:
        """This thread begins a call; `left` follows."""

    @abstractmethod
    def left(self, span: Span) -> None:
        """This thread has finished the call that it entered; its results are not handed on yet."""

    @abstractmethod
    def handed_on(self, stage: str, worker: int | str, since_ns: int) -> None:
        """The results of the last call are on the edges; it took from `since_ns` (monotonic) until now."""

    @abstractmethod
    def finished(self, stage: str, items: Sequence[Item]) -> None:
        """These items have left the graph at this last stage."""

    @abstractmethod
    def end(self) -> None:
        """All stages have ended."""
