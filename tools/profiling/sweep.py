"""A sweep: the same measurement with every combination of the given settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import yaml

from operators.graphs.graph_files import load_graph, models_named
from pipeline.definition.options import options_model
from pipeline.errors import ConfigError, PosestreamError, nearest
from pipeline.graph import Graph
from pipeline.node import Node
from tools.profiling.bounds import IsolatedBench
from tools.profiling.document import Profile
from tools.profiling.session import NothingMeasuredError, OnProgress, StopRequest, measure
from tools.profiling.settings import Settings

NUMBERS = ("streams", "processes")  # settings of the run; the others are options of nodes
NAMES = (*NUMBERS, "batch", "backend")

Point = Mapping[str, str]  # setting: value, as given on the command line


@dataclass(frozen=True)
class Failed:
    """A point that could not be measured."""

    swept: Point
    error: PosestreamError


def read_points(texts: Iterable[str]) -> list[dict[str, str]]:
    """Combine all values of `streams=1,2,4`, `batch=1,4`, `detect.every=1,5` …; the last one varies fastest.

    A text may hold several settings, with spaces between them.

    Raises:
        ConfigError: a setting is not of that form, or is given twice.
    """
    values: dict[str, list[str]] = {}
    for word in " ".join(texts).split():
        name, equals, listed = word.partition("=")
        parts = listed.split(",")
        if not equals or not all(parts):
            raise ConfigError(f"--sweep {word}: expected NAME=VALUE,VALUE,…, as in streams=1,2,4")
        if name not in NAMES and "." not in name:
            raise ConfigError(
                f"--sweep {word}: no setting {name!r}; {nearest(name, list(NAMES))} (or NODE.OPTION)"
            )
        if name in values:
            raise ConfigError(f"--sweep {word}: {name} is given twice; list all of its values at once")
        if name in NUMBERS and not all(part.isdigit() and int(part) for part in parts):
            raise ConfigError(f"--sweep {word}: expected whole numbers from 1")
        values[name] = parts
    return [dict(zip(values, point, strict=True)) for point in product(*values.values())]


def settings_at(base: Settings, point: Point) -> Settings:
    """Return the settings of the measurement at this point.

    Raises:
        ConfigError: no node of the graph has the option of a setting.
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
    stop: StopRequest,
    on_progress: OnProgress = lambda *_: None,
    on_result: Callable[[Profile | Failed], None] = lambda _: None,
) -> list[Profile | Failed]:
    """Measure at all points, one after the other; a point that fails does not stop the others.

    Raises:
        PosestreamError: all points failed; this is the first one's error.
    """
    isolated = IsolatedBench(stop.stopped, lambda what: on_progress(f"measuring {what}", None))
    results: list[Profile | Failed] = []
    for number, point in enumerate(points, 1):
        where = f"{number}/{len(points)} {' '.join(f'{name}={value}' for name, value in point.items())}"
        result: Profile | Failed
        try:
            result = measure(
                settings_at(base, point),
                stop=stop,
                isolated=isolated,
                on_progress=lambda what, share, where=where: on_progress(f"{where}: {what}", share),  # type: ignore[misc]
            )
        except NothingMeasuredError:
            break
        except PosestreamError as error:
            result = Failed(point, error)
        results.append(result)
        on_result(result)
        if stop.stopped.is_set():
            break
    failed = [result for result in results if isinstance(result, Failed)]
    if failed and len(failed) == len(results):
        raise failed[0].error
    return results


def as_json(results: Iterable[Profile | Failed]) -> str:
    """Write the profiles as a JSON list; a point that failed has only its settings and the error."""
    listed = [
        {"settings": dict(result.swept), "error": str(result.error)}
        if isinstance(result, Failed)
        else result.model_dump(mode="json")
        for result in results
    ]
    return json.dumps(listed, indent=1, ensure_ascii=False)


def _targets(graph: Graph, name: str) -> list[str]:
    """Return the options of a graph that `batch` or `backend` stands for."""
    has_it = _batches_a_model if name == "batch" else _has_backend
    found = [node.name for node in graph.nodes if has_it(node)]
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
        raise ConfigError(f"--sweep {name}=…: {value!r} is not a YAML value") from None
