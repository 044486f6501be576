"""Run a graph on sources until they end: what `posestream.run` does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from operators.graphs.graph_files import load_graph, with_sinks
from pipeline.errors import ConfigError
from pipeline.graph import Graph
from pipeline.make_run import run_graph
from pipeline.measurement.run_stats import RunStats


def run(
    graph: Graph | str | Path,
    sources: str | Sequence[str] | Mapping[str, str],
    out: str | Path | None = None,
    *,
    processes: int | None = 1,
) -> RunStats:
    """Run a graph on sources until they end.

    Args:
        graph: a loaded one, or a name or path as for `load_graph`.
        sources: one or several as for `name_sources`, or stream name to source.
        out: a folder; if given, results go to `out/STREAM.jsonl`, too.
        processes: over how many processes to spread the sources; None: as many as the graph says. Processes
            take a second to start, and find operators in modules only, not in the calling script.

    Raises:
        ConfigError: the graph cannot work.
        PosestreamError: a source cannot be read, or a stage failed; results up to there are written.
    """
    if not isinstance(graph, Graph):
        graph = load_graph(graph)
    if out is not None:
        graph = with_sinks(graph, {"jsonl_sink": {"dir": str(out)}})
    if not isinstance(sources, Mapping):
        sources = name_sources([sources] if isinstance(sources, str) else sources)
    return run_graph(graph, sources, processes=processes)


def name_sources(sources: Iterable[str]) -> dict[str, str]:
    """Stream names for sources, each `SOURCE` or `NAME=SOURCE`.

    A source without a name gets that of its file, with a number if the name is taken.

    Returns:
        Stream name to source.

    Raises:
        ConfigError: a name is given twice, or is empty.
    """
    named: dict[str, str] = {}
    for source in sources:
        name, given, uri = source.partition("=")
        # A path or URL may itself hold "="; a name has no "/".
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
