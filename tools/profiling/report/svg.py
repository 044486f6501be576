"""SVG elements as nested calls; all text in them is escaped, so that no name can become markup."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from markupsafe import Markup, escape

Child: TypeAlias = "str | float | Iterable[Child] | None"


def tag(name: str, /, *children: Child, **attributes: object) -> Markup:
    """An element; `class_` is its class, `stroke_width` becomes stroke-width, None is left out."""
    given = Markup().join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _written(value))
        for key, value in attributes.items()
        if value is not None
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, given, _joined(children))


def svg(
    width: float, height: float, label: str, *children: Child, class_: str = "chart", **more: object
) -> Markup:
    """A picture of this size in px; a screen reader reads `label` out."""
    return tag(
        "svg",
        *children,
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
        class_=class_,
        **more,
        role="img",
        aria_label=label,
    )


def text(x: float, y: float, what: str, class_: str | None = None, anchor: str = "start") -> Markup:
    """A line of text in a picture; `anchor` is start, middle or end."""
    return tag("text", what, x=x, y=y, class_=class_, text_anchor=None if anchor == "start" else anchor)


def fitting(what: str, width: float, size: float = 12) -> str:
    """Text that is cut, with an ellipsis, to fit into `width` px at a font size of `size` px."""
    room = max(int(width / (0.55 * size)), 2)
    return what if len(what) <= room else what[: room - 1] + "…"


def _joined(children: Child) -> Markup:
    if children is None:
        return Markup()
    if isinstance(children, (str, int, float)):
        return escape(children)
    return Markup().join(_joined(child) for child in children)


def _written(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
