"""A node of a checked graph: an operator with its options, and how it is run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pipeline.edges.inbox import Policy
from pipeline.operator import Operator, Ports
from pipeline.stage import Batching


@dataclass(frozen=True, eq=False)
class Node:
    """One node; those of a graph are the same only if they are one."""

    name: str
    op: str
    operator: type[Operator]
    options: dict[str, Any]
    after: tuple[str, ...]
    batching: Batching
    workers: int | Literal["auto"]
    capacity: int | None
    on_full: Policy | None
    on_error: Literal["fail", "skip"] | None
    fragment: str | None
    ports: Ports

    @property
    def per_stream(self) -> bool:
        """Whether all packets of a stream must go to the same worker."""
        return self.operator.per_stream if self.ports.per_stream is None else self.ports.per_stream

    def make(self) -> Operator:
        """A new operator with this node's options."""
        return self.operator(**self.options)
