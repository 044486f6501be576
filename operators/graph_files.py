"""Ready graphs (`configs/graphs`) and graph files, read with all operators known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from operators import REGISTRY
from pipeline.errors import ConfigError, nearest
from pipeline.graph import Graph, check_graph, read_graph
from pipeline.measurement.stats import RunStats
from pipeline.run import run_graph

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
    """Load and check a graph, by its name or file; `changes` maps `node.option` to another value.

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

    It is then whole: of fragments it knows nothing any more.

    Raises:
        ConfigError: a sink cannot take what the graph provides.
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


def name_sources(sources: Iterable[str]) -> dict[str, str]:
    """Stream names for sources: `NAME=SOURCE` as told, else the file's name; doubles get a number.

    Raises:
        ConfigError: a name is given twice, or is empty.
    """
    named: dict[str, str] = {}
    for source in sources:
        name, given, uri = source.partition("=")
        # A path or URL may hold '=' itself; a name holds no separators.
        if not given or "/" in name or Path(source).exists():
            name, uri = Path(source.rstrip("/")).stem or "stream", source
            given = ""
        if given and (not name or name in named):
            raise ConfigError(f"source {source!r}: the stream name is {'given twice' if name else 'empty'}")
        unique, number = name, 2
        while unique in named:
            unique, number = f"{name}-{number}", number + 1
        named[unique] = uri
    return named


def run(
    graph: Graph | str | Path,
    sources: str | Sequence[str] | Mapping[str, str],
    out: str | Path | None = None,
    *,
    processes: int | None = 1,
) -> RunStats:
    """Run a graph on sources until they end; with `out`, a folder, results go to `out/STREAM.jsonl`.

    `processes` spreads several sources over so many processes, None over as many as the graph says. They take
    a second to start and find operators only in modules, not in the calling script, so the default is one.

    Raises:
        ConfigError: the graph is refused.
        PosestreamError: a source cannot be read, or a stage failed; what was finished before is written.
    """
    if not isinstance(graph, Graph):
        graph = load_graph(graph)
    if out is not None:
        graph = with_sinks(graph, {"jsonl_sink": {"dir": str(out)}})
    if not isinstance(sources, Mapping):
        sources = name_sources([sources] if isinstance(sources, str) else sources)
    return run_graph(graph, sources, processes=processes)


def free_name(name: str, taken: Mapping[str, Any]) -> str:
    """The name, or one like it that is not taken."""
    return name if name not in taken else free_name(f"{name}_2", taken)


def models_in(graph: Graph) -> list[str]:
    """The models that a checked graph names, in its order."""
    return list(dict.fromkeys(chain.from_iterable(models_named(node.options) for node in graph.nodes)))


def models_named(options: Mapping[str, Any]) -> list[str]:
    """The models that a node's options name: `model` is one, `models` are several."""
    return [options["model"]] if "model" in options else list(options.get("models", ()))


def models_of(name: str | Path) -> list[str]:
    """The models that a graph names, in its order, without checking anything else of it.

    Raises:
        ConfigError: no such graph, or no YAML.
    """
    path = find_graph(name)
    try:
        nodes = yaml.safe_load(path.read_text(encoding="utf-8"))["graph"].values()
        return list(dict.fromkeys(chain.from_iterable(models_named(node) for node in nodes)))
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is no graph: {error}; check it with: posestream graph validate {path}"
        ) from None
