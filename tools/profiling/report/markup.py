"""HTML and SVG as nested calls: text is escaped where it is put in, so that no name can become markup."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TypeAlias

EMPTY = {"meta", "br"}  # elements of HTML that have no end


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


Child: TypeAlias = "str | float | Iterable[Child] | None"


def tag(name: str, /, *children: Child, **attributes: object) -> Html:
    """An element; `class_` is its class, `stroke_width` becomes stroke-width, None is left out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_written(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{given}>" if name in EMPTY else f"<{name}{given}>{together(children)}</{name}>")


def together(children: Child) -> Html:
    """Children one after the other, those that are not markup escaped."""
    if children is None:
        return Html()
    if isinstance(children, Html):
        return children
    if isinstance(children, (str, int, float)):
        return Html(escape(str(children)))
    return Html("".join(together(child) for child in children))


def svg(
    width: float, height: float, said: str, *children: Child, class_: str = "chart", style: str | None = None
) -> Html:
    """A picture of this size in px; `said` is what a screen reader says of it."""
    return tag(
        "svg",
        *children,
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
        class_=class_,
        style=style,
        role="img",
        aria_label=said,
    )


def text(x: float, y: float, what: str, class_: str | None = None, anchor: str = "start") -> Html:
    """A line of text in a picture; `anchor` is start, middle or end."""
    return tag("text", what, x=x, y=y, class_=class_, text_anchor=None if anchor == "start" else anchor)


def fitting(what: str, width: float, size: float = 12) -> str:
    """Text that is cut, with an ellipsis, to what fits into so many px."""
    room = max(int(width / (0.55 * size)), 2)
    return what if len(what) <= room else what[: room - 1] + "…"


def _written(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
