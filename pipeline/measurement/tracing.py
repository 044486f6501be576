"""The interface through which a run reports its work as it happens, for profiles and traces."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from pipeline.operator import RunInfo
from pipeline.packet import Item, Taken


class Span(NamedTuple):
    """One call of a stage: a batch, or one item of a source, which takes nothing."""

    stage: str
    worker: int | str  # its number; of a source, the name of the stream
    start_ns: int  # monotonic
    end_ns: int
    cpu_ns: int  # processor time of the worker's own thread
    taken: Sequence[Taken]
    results: Sequence[Item]


class Tracer(ABC):
    """Receives reports from the stages of one process, in their own threads, so every method must be quick.

    A tracer must be picklable until `begin`: in a run of several processes, each process has a copy.
    """

    @abstractmethod
    def begin(self, run: RunInfo) -> None:
        """The run is about to open its operators, one stage after the other."""

    @abstractmethod
    def opened(self, stage: str) -> None:
        """All operators of a stage are open."""

    @abstractmethod
    def enter(self, stage: str, worker: int | str) -> None:
        """The calling thread begins a call; `left` follows."""

    @abstractmethod
    def left(self, span: Span) -> None:
        """The calling thread has finished its call; the results are not on the next edges yet."""

    @abstractmethod
    def handed_on(self, stage: str, worker: int | str, since_ns: int) -> None:
        """The results of the last call are on the next edges; that took since `since_ns` (monotonic)."""

    @abstractmethod
    def finished(self, stage: str, items: Sequence[Item]) -> None:
        """These items have left the graph at `stage`, a last stage."""

    @abstractmethod
    def end(self) -> None:
        """All stages have ended."""
