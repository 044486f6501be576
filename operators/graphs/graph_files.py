"""Graphs by name (`configs/graphs`) or file: load them, list their models, add sinks to them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from operators import REGISTRY
from pipeline.errors import ConfigError, nearest
from pipeline.graph import Graph, check_graph, read_graph

GRAPHS = Path(__file__).resolve().parents[2] / "configs" / "graphs"


def available_graphs() -> list[str]:
    """The names of all graphs in `configs/graphs`, sorted."""
    return sorted(path.stem for path in GRAPHS.glob("*.yaml"))


def find_graph(name: str | Path) -> Path:
    """The file of a graph: of one in `configs/graphs` by its name, of any other by its path (.yaml or .yml).

    Raises:
        ConfigError: there is no such graph; the text gives the nearest name.
    """
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        if path.is_file():
            return path
        raise ConfigError(f"no graph file {name}; check the path")
    ready = GRAPHS / f"{name}.yaml"
    if not ready.is_file():
        raise ConfigError(
            f"no graph {str(name)!r}; {nearest(str(name), available_graphs())} (or give the path of a file)"
        )
    return ready


def load_graph(name: str | Path, changes: Mapping[str, Any] | None = None) -> Graph:
    """Load and check a graph.

    Args:
        name: a name in `configs/graphs`, or a path.
        changes: `node.option` to a value that replaces the one in the file.

    Raises:
        ConfigError: there is no such graph, or it cannot work; the text gives file, line and a way out.
    """
    path = find_graph(name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    where = path.name if path.parent == GRAPHS else str(path)
    return read_graph(text, REGISTRY, where, changes)


def with_sinks(graph: Graph, sinks: Mapping[str, dict[str, Any]]) -> Graph:
    """The graph with more sinks, after its last operators that are not sinks themselves.

    The result is not cut into fragments: it runs in one part.

    Args:
        graph: is not changed.
        sinks: operator name to options.

    Raises:
        ConfigError: a sink needs what the graph does not provide.
    """
    if not sinks:
        return graph
    sinks_before = graph.sinks
    work = [node for node in graph.nodes if node not in sinks_before]
    last = [n.name for n in work if all(c in sinks_before for c in graph.consumers(n))]
    nodes = {
        name: {k: v for k, v in node.items() if k != "fragment"} for name, node in graph.spec["graph"].items()
    }
    data = {**graph.spec, "graph": nodes}
    for op, options in sinks.items():
        data["graph"][free_name(op, data["graph"])] = {"op": op, "after": last, **options}
    return check_graph(data, REGISTRY, graph.where)


def free_name(name: str, taken: Mapping[str, Any]) -> str:
    """The name, or if it is taken, the name with a suffix that is not taken."""
    return name if name not in taken else free_name(f"{name}_2", taken)


def models_in(graph: Graph) -> list[str]:
    """The models that a checked graph names, in the order of its nodes."""
    return list(dict.fromkeys(chain.from_iterable(models_named(node.options) for node in graph.nodes)))


def models_named(options: Mapping[str, Any]) -> list[str]:
    """The models that a node's options name: one as `model`, or several as `models`."""
    return [options["model"]] if "model" in options else list(options.get("models", ()))


def models_of(name: str | Path) -> list[str]:
    """The models that a graph names, in the order of its nodes; nothing else of it is checked.

    Raises:
        ConfigError: there is no such graph, or the file is not a graph.
    """
    path = find_graph(name)
    try:
        nodes = yaml.safe_load(path.read_text(encoding="utf-8"))["graph"].values()
        return list(dict.fromkeys(chain.from_iterable(models_named(node) for node in nodes)))
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is not a graph: {error}; check it with: posestream graph validate {path}"
        ) from None
