"""Ready graphs (`configs/graphs`) and graph files, read with all operators known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from operators import REGISTRY
from pipeline.errors import ConfigError
from pipeline.graph import Graph, check_graph, nearest, read_graph

GRAPHS = Path(__file__).resolve().parent.parent / "configs" / "graphs"


def available_graphs() -> list[str]:
    """The names of all ready graphs, sorted."""
    return sorted(path.stem for path in GRAPHS.glob("*.yaml"))


def find_graph(name: str | Path) -> Path:
    """The file of a ready graph, by its name, or of one's own, by its path.

    Raises:
        ConfigError: neither, with the nearest name.
    """
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        if path.is_file():
            return path
        raise ConfigError(f"no graph file {name}")
    ready = GRAPHS / f"{name}.yaml"
    if not ready.is_file():
        raise ConfigError(
            f"no graph {str(name)!r}; {nearest(str(name), available_graphs())} (or give a .yaml file)"
        )
    return ready


def load_graph(name: str | Path, changes: Mapping[str, Any] | None = None) -> Graph:
    """Load and check a graph, by its name or file; `changes` maps `node.option` to values that replace the file's.

    Raises:
        ConfigError: no such graph, or one that cannot work, with file, line and what would.
    """
    path = find_graph(name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    where = path.name if path.parent == GRAPHS else str(path)
    return read_graph(text, REGISTRY, where, changes)


def with_sinks(graph: Graph, sinks: Mapping[str, dict[str, Any]]) -> Graph:
    """The graph with further sinks (operator name to options) behind its last operators that are no sinks.

    Raises:
        ConfigError: a sink cannot take what the graph provides.
    """
    if not sinks:
        return graph
    work = [node for node in graph.nodes if not _is_sink(node.op)]
    last = [n.name for n in work if all(_is_sink(c.op) for c in graph.consumers(n))]
    data = {**graph.spec, "graph": dict(graph.spec["graph"])}
    for op, options in sinks.items():
        data["graph"][_free_name(op, data["graph"])] = {"op": op, "after": last, **options}
    return check_graph(data, REGISTRY, graph.where)


def _is_sink(op: str) -> bool:
    return op.endswith("_sink")


def _free_name(name: str, taken: Mapping[str, Any]) -> str:
    return name if name not in taken else _free_name(f"{name}_2", taken)


def models_of(name: str | Path) -> list[str]:
    """The models that a graph names, in its order, without checking anything else of it.

    Raises:
        ConfigError: no such graph, or no YAML.
    """
    path = find_graph(name)
    try:
        nodes = yaml.safe_load(path.read_text(encoding="utf-8"))["graph"].values()
        return list(dict.fromkeys(node["model"] for node in nodes if "model" in node))
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is no graph: {error}; check it with: posestream graph validate {path}"
        ) from None
