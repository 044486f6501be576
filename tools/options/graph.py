"""Options that choose a graph, change it, and choose a fragment of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import typer
import yaml

from pipeline.errors import ConfigError

GraphChoice = Annotated[
    str, typer.Option("--graph", "-g", help="A ready graph (posestream graph list) or a .yaml file.")
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="NODE.OPTION=VALUE", help="Change an option of the graph."),
]
Fragment = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Run only this fragment of the graph; it exchanges packets with the others over Kafka topics.",
    ),
]


def parse_changes(changes: Iterable[str] | None) -> dict[str, Any]:
    """`NODE.OPTION=VALUE` as given with --set; values are read as YAML (0.4, true, [cat, dog]).

    Raises:
        ConfigError: a change does not have this form.
    """
    parsed = {}
    for change in changes or ():
        target, given, value = change.partition("=")
        if not given or "." not in target:
            raise ConfigError(f"--set {change}: expected NODE.OPTION=VALUE, as in detect.min_score=0.4")
        try:
            parsed[target] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"--set {change}: {value!r} is not a YAML value; quote it") from None
    return parsed
