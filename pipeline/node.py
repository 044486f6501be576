"""A node of a checked graph: an operator with its options, and how the runtime runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pipeline.edges.lane import Policy
from pipeline.operator import Operator, Ports

OnError = Literal["fail", "skip"]


@dataclass(frozen=True)
class Batching:
    """How many packets a call takes, and how long it waits for them."""

    max: int = 1
    wait_ms: float = 0.0


@dataclass(frozen=True, eq=False)
class Node:
    """One node; two nodes are never equal, even with the same content."""

    name: str
    op: str
    operator: type[Operator]
    options: dict[str, Any]
    after: tuple[str, ...]
    batching: Batching
    workers: int | Literal["auto"]
    capacity: int | None
    on_full: Policy | None
    on_error: OnError | None
    fragment: str | None
    ports: Ports

    @property
    def per_stream(self) -> bool:
        """Whether all packets of a stream must go to the same worker."""
        return self.operator.per_stream if self.ports.per_stream is None else self.ports.per_stream

    def on_error_in(self, *, live: bool) -> OnError:
        """What an error does: as the graph says, else `skip` in a live run and `fail` with files."""
        return self.on_error or ("skip" if live else "fail")

    def make(self) -> Operator:
        """A new operator with this node's options."""
        return self.operator(**self.options)
