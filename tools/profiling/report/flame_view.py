"""Processor time by stage and function, as boxes under boxes; a click makes one as wide as the page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tools.profiling.number_format import figure, percent
from tools.profiling.report.markup import Html, tag

LEAST = 0.002  # of the whole: what is less is not drawn
HIGH = 20  # px of a box
OWN = re.compile(r"\((?:pipeline|engines|operators|tools)/[^)]*\)$")
BEGINNING = re.compile(r"\((?:<frozen )?threading(?:\.py|>):")  # how each thread begins
WRITTEN = re.compile(r"(?P<function>.*) \((?P<place>[^()]*)\)$")


@dataclass
class Call:
    """A function as it was called from those above it; ms with all that it calls."""

    name: str
    ms: float = 0.0
    calls: dict[str, Call] = field(default_factory=dict)


def tree(stacks: Mapping[str, float]) -> Call:
    """All stacks under one root; those of a stage are under its name."""
    root = Call("all threads")
    for stack, ms in stacks.items():
        root.ms += ms
        at = root
        for name in stack.split(";"):
            if BEGINNING.search(name):
                continue
            at = at.calls.setdefault(name, Call(name))
            at.ms += ms
    return root


def draw_flame(stacks: Mapping[str, float]) -> Html:
    """The boxes, widest first, with a line that tells of the one that is pointed at."""
    root = tree(stacks)
    boxes = list(_boxes(root, root.ms, 0.0, 0))
    deepest = max(depth for depth, *_ in boxes)
    drawn = [_box(*box, whole=root.ms) for box in boxes]
    hint = "Point at a box for its figures; click it to zoom in, and the topmost one to zoom out."
    return tag(
        "div",
        tag("output", hint, class_="told"),
        tag("div", drawn, class_="boxes", style=f"height:{(deepest + 1) * HIGH}px"),
        class_="flame",
    )


def _boxes(call: Call, whole: float, left: float, depth: int) -> Iterator[tuple[int, float, Call]]:
    """Depth, left end as a share of the whole, and the call, of all that are wide enough."""
    if call.ms < LEAST * whole:
        return
    yield depth, left, call
    for inner in sorted(call.calls.values(), key=lambda call: -call.ms):
        yield from _boxes(inner, whole, left, depth + 1)
        left += inner.ms / whole


def _box(depth: int, left: float, call: Call, *, whole: float) -> Html:
    found = WRITTEN.match(call.name)
    function, place = (found["function"], found["place"]) if found else (call.name, "")
    share = call.ms / whole
    kind = "root" if depth == 0 else "stage" if depth == 1 else "own" if OWN.search(call.name) else "other"
    own = call.ms - sum(inner.ms for inner in call.calls.values())
    told = f"{function}{' · ' + place if place else ''} · {figure(call.ms)} ms, {percent(share)}"
    told += f", itself {figure(own)} ms" if call.calls and own > 0.005 else ""
    return tag(
        "button",
        function,
        type="button",
        class_=kind,
        title=told,
        style=f"left:{100 * left:.3f}%;width:{100 * share:.3f}%;top:{depth * HIGH}px",
        data_x=f"{left:.6f}",
        data_w=f"{share:.6f}",
        data_d=depth,
    )
