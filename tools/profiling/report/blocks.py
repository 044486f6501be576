"""What the sections of the report are built of: headings, cards, tables, the colours' meaning."""

from __future__ import annotations

from collections.abc import Sequence

from tools.profiling.number_format import STATES
from tools.profiling.report.markup import Child, Html, svg, tag

WORDS = {"why", "held back", "limited by", ""}  # columns that hold them wherever they stand

Part = tuple[str, str, Child]  # heading, how to read it, content
Cell = Child
Rows = Sequence[Sequence[Cell]]


def section(heading: str, hint: str, content: Child) -> Html:
    """A section under its heading, which a link of the contents leads to."""
    return tag("section", tag("h2", heading), tag("p", hint, class_="hint"), content, data_name=heading)


def card(heading: str, content: Child, note: Child = None, *, wide: bool = False) -> Html:
    """A picture or a table under its heading, with a note below it."""
    said = tag("p", note, class_="note") if note else None
    return tag("figure", tag("figcaption", heading), content, said, class_="wide" if wide else None)


def grid(*cards: Child, class_: str = "grid") -> Html:
    """Cards side by side, as many as there is room for."""
    return tag("div", cards, class_=class_)


def table(head: Sequence[str], rows: Rows, text: int = 1, marked: int | None = None) -> Html:
    """A table whose first `text` columns are words, the others figures; a row may be marked."""
    kinds = [None if n < text or name in WORDS else "n" for n, name in enumerate(head)]
    names = [tag("th", name, scope="col", class_=kind) for name, kind in zip(head, kinds, strict=True)]
    lines = []
    for n, row in enumerate(rows):
        cells = [tag("td", cell, class_=kind) for cell, kind in zip(row, kinds, strict=True)]
        lines.append(tag("tr", cells, class_="marked" if n == marked else None))
    return scrolling(tag("table", tag("thead", tag("tr", names)), tag("tbody", lines)), "table")


def scrolling(content: Child, what: str) -> Html:
    """Content that scrolls sideways where the page is too narrow for it, also with the keyboard."""
    return tag("div", content, class_="scroll", tabindex=0, role="group", aria_label=what)


def legend() -> Html:
    """What the four states of a stage are."""
    items = []
    for state, meaning in STATES.items():
        swatch = tag("rect", x=0.5, y=0.5, width=21, height=11, class_=f"state {state}")
        items.append(tag("li", svg(22, 12, state, swatch, class_="swatch"), tag("b", state), f" {meaning}"))
    return tag("ul", items, class_="legend")
