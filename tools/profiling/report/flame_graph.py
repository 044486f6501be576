"""Processor time by stage and function, as boxes under boxes; a click makes one as wide as the page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tools.profiling.number_format import figure, percent

LEAST = 0.002  # of the total; smaller boxes are not drawn
OURS = re.compile(r"\((?:pipeline|engines|operators|tools)/[^)]*\)$")
THREAD_START = re.compile(r"\((?:<frozen )?threading(?:\.py|>):")  # the same frames begin every thread
NAME = re.compile(r"(?P<function>.*) \((?P<place>[^()]*)\)$")


@dataclass
class Call:
    """A function, as called from the functions above it; `ms` includes all that it calls."""

    name: str
    ms: float = 0.0
    calls: dict[str, Call] = field(default_factory=dict)


@dataclass(frozen=True)
class Box:
    """A call as it is drawn; `left` and `width` are shares of the page's width."""

    call: Call
    depth: int
    left: float
    width: float

    @property
    def function(self) -> str:
        """The function's name, or the stage's."""
        found = NAME.match(self.call.name)
        return found["function"] if found else self.call.name

    @property
    def kind(self) -> str:
        """Whose code it is, which decides the colour."""
        if self.depth < 2:
            return ("root", "stage")[self.depth]
        return "own" if OURS.search(self.call.name) else "other"

    @property
    def title(self) -> str:
        """Its figures in a line."""
        found = NAME.match(self.call.name)
        own = self.call.ms - sum(inner.ms for inner in self.call.calls.values())
        parts = [self.function, *([found["place"]] if found else [])]
        title = f"{' · '.join(parts)} · {figure(self.call.ms)} ms, {percent(self.width)}"
        return title + (f", itself {figure(own)} ms" if self.call.calls and own > 0.005 else "")


def tree(stacks: Mapping[str, float]) -> Call:
    """All stacks under one root; those of a stage are under its name."""
    root = Call("all threads")
    for stack, ms in stacks.items():
        root.ms += ms
        at = root
        for name in stack.split(";"):
            if THREAD_START.search(name):
                continue
            at = at.calls.setdefault(name, Call(name))
            at.ms += ms
    return root


def flame_boxes(stacks: Mapping[str, float]) -> list[Box]:
    """The boxes of all calls that are wide enough, a call before those it makes, the longest ones first."""
    root = tree(stacks)
    return list(_boxes(root, root.ms, 0.0, 0))


def _boxes(call: Call, total_ms: float, left: float, depth: int) -> Iterator[Box]:
    if call.ms < LEAST * total_ms:
        return
    yield Box(call, depth, left, call.ms / total_ms)
    for inner in sorted(call.calls.values(), key=lambda call: -call.ms):
        yield from _boxes(inner, total_ms, left, depth + 1)
        left += inner.ms / total_ms
