"""A sweep: the same measurement with every combination of some settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import yaml

from operators.graph_files import load_graph, models_named
from pipeline.definition.options import options_model
from pipeline.errors import ConfigError, PosestreamError, nearest
from pipeline.graph import Graph
from pipeline.node import Node
from tools.profiling.bounds import Lone
from tools.profiling.document import Profile
from tools.profiling.session import Ending, NothingMeasuredError, Said, measure
from tools.profiling.settings import Settings

NUMBERS = ("streams", "processes")  # of the run; all else is of nodes
NAMES = (*NUMBERS, "batch", "backend")

Point = Mapping[str, str]  # setting: value, as they were given


@dataclass(frozen=True)
class Failed:
    """A point that could not be measured."""

    swept: Point
    error: PosestreamError


def read_points(told: Iterable[str]) -> list[dict[str, str]]:
    """All combinations of `streams=1,2,4`, `batch=1,4`, `detect.every=1,5` …, the last one varying fastest.

    A text may hold several, with spaces between them.

    Raises:
        ConfigError: not of that form, or one is given twice.
    """
    values: dict[str, list[str]] = {}
    for word in " ".join(told).split():
        name, given, listed = word.partition("=")
        parts = listed.split(",")
        if not given or not all(parts):
            raise ConfigError(f"--sweep {word}: expected NAME=VALUE,VALUE,…, as in streams=1,2,4")
        if name not in NAMES and "." not in name:
            raise ConfigError(
                f"--sweep {word}: no setting {name!r}; {nearest(name, list(NAMES))} (or NODE.OPTION)"
            )
        if name in values:
            raise ConfigError(f"--sweep {word}: {name} is given twice; list all of its values in one")
        if name in NUMBERS and not all(part.isdigit() and int(part) for part in parts):
            raise ConfigError(f"--sweep {word}: expected numbers from 1")
        values[name] = parts
    return [dict(zip(values, point, strict=True)) for point in product(*values.values())]


def settings_at(base: Settings, point: Point) -> Settings:
    """The settings of a measurement at this point.

    Raises:
        ConfigError: the graph has nothing that a setting could be set of.
    """
    graph = load_graph(base.graph, base.changes)
    changes: dict[str, Any] = dict(base.changes)
    for name, value in point.items():
        if name in ("batch", "backend"):
            changes |= dict.fromkeys(_targets(graph, name), _parsed(name, value))
        elif name not in NUMBERS:
            changes[name] = _parsed(name, value)
    numbers: dict[str, Any] = {name: int(point[name]) for name in NUMBERS if name in point}
    return replace(base, changes=changes, swept=dict(point), trace=None, **numbers)


def sweep(
    base: Settings,
    points: Sequence[Point],
    *,
    ending: Ending,
    said: Said = lambda *_: None,
    measured: Callable[[Profile | Failed], None] = lambda _: None,
) -> list[Profile | Failed]:
    """Measure at all points, one behind the other; what fails at one does not keep the others from it.

    Raises:
        PosestreamError: all of them failed; the first one's.
    """
    lone = Lone(ending.stopped, lambda what: said(f"measuring {what}", None))
    results: list[Profile | Failed] = []
    for number, point in enumerate(points, 1):
        where = f"{number}/{len(points)} {' '.join(f'{name}={value}' for name, value in point.items())}"
        result: Profile | Failed
        try:
            result = measure(
                settings_at(base, point),
                ending=ending,
                lone=lone,
                said=lambda what, share, where=where: said(f"{where}: {what}", share),  # type: ignore[misc]
            )
        except NothingMeasuredError:
            break
        except PosestreamError as error:
            result = Failed(point, error)
        results.append(result)
        measured(result)
        if ending.stopped.is_set():
            break
    failed = [result for result in results if isinstance(result, Failed)]
    if failed and len(failed) == len(results):
        raise failed[0].error
    return results


def as_json(results: Iterable[Profile | Failed]) -> str:
    """A list of profiles; of a point that failed only its settings and the error."""
    listed = [
        {"settings": dict(result.swept), "error": str(result.error)}
        if isinstance(result, Failed)
        else result.model_dump(mode="json")
        for result in results
    ]
    return json.dumps(listed, indent=1, ensure_ascii=False)


def _targets(graph: Graph, name: str) -> list[str]:
    """The options that `batch` or `backend` stands for in a graph."""
    suits = _batches_a_model if name == "batch" else _has_backend
    found = [node.name for node in graph.nodes if suits(node)]
    if not found:
        what = "runs a model in batches" if name == "batch" else "has the option `backend`"
        raise ConfigError(f"--sweep {name}=…: no node of {graph.where} {what}; leave it out")
    return [f"{node}.{'batch.max' if name == 'batch' else name}" for node in found]


def _batches_a_model(node: Node) -> bool:
    return bool(models_named(node.options)) and max(node.operator.batch_max, node.batching.max) > 1


def _has_backend(node: Node) -> bool:
    return "backend" in options_model(node.operator).model_fields


def _parsed(name: str, value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"--sweep {name}=…: {value!r} is no YAML value") from None
