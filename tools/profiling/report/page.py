"""The report: one HTML file that needs nothing else, neither a network nor a library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.errors import ConfigError
from tools.profiling import number_format, table
from tools.profiling.compare import Comparison, cells
from tools.profiling.document import Profile
from tools.profiling.report import profile_charts
from tools.profiling.report.flame_graph import flame_boxes
from tools.profiling.report.graph_drawing import draw_graph
from tools.profiling.report.sweep_charts import sweep_charts, swept_names

HERE = Path(__file__).parent


def write_html(
    profiles: Profile | Sequence[Profile], path: Path, comparison: Comparison | None = None
) -> None:
    """Write the report on one profile, or on the points of a sweep; on one also what changed, if given.

    Raises:
        ConfigError: the file cannot be written.
    """
    points = [profiles] if isinstance(profiles, Profile) else list(profiles)
    page = _environment().get_template("page.html").render(points=points, comparison=comparison)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def _environment() -> Environment:
    """Templates that escape every name, and fail on a variable that does not exist."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": number_format.figure,
        "percent": number_format.percent,
        "thousands": "{:,}".format,
        "total": lambda counts: sum(counts.values()),
    }
    environment.globals |= {
        "style": Markup((HERE / "page.css").read_text(encoding="utf-8")),
        "script": Markup((HERE / "page.js").read_text(encoding="utf-8")),
        "numbers": number_format,
        "charts": profile_charts,
        "comparison_cells": cells,
        "draw_graph": draw_graph,
        "flame_boxes": flame_boxes,
        "limited_by": table.limited_by,
        "lost_at": table.lost_at,
        "bound_said": table.bound_said,
        "sweep_charts": sweep_charts,
        "swept_names": swept_names,
    }
    return environment
