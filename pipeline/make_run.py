"""Make a run of a graph, in this process or in several, and carry it out."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pipeline.graph import Graph
from pipeline.measurement.run_stats import RunStats
from pipeline.measurement.tracing import Tracer
from pipeline.processes.split_run import SplitRun, processes_for
from pipeline.run import Run
from pipeline.running import Running


def make_run(
    graph: Graph,
    sources: Mapping[str, str],
    *,
    live: bool = False,
    processes: int | None = 1,
    tracer: Tracer | None = None,
) -> Running:
    """A run in at most `processes` processes, no more than sources; None takes as many as the graph says.

    Raises:
        ConfigError: several are wanted, and the graph must stay in one.
        SourceError: a source cannot be read.
    """
    cores = os.cpu_count() or 1
    if processes is None and graph.processes != "auto":
        processes = graph.processes
    processes = processes_for(graph, len(sources), processes, cores)
    if processes > 1:
        return SplitRun(graph, sources, processes, live=live, cores=cores, tracer=tracer)
    return Run(graph, sources, live=live, cores=cores, tracer=tracer)


def run_graph(
    graph: Graph, sources: Mapping[str, str], *, live: bool = False, processes: int | None = 1
) -> RunStats:
    """Run a graph on sources until they end; the summary. `processes` as for `make_run`.

    Raises:
        PosestreamError: a source cannot be read, or a stage failed.
    """
    run = make_run(graph, sources, live=live, processes=processes)
    run.start()
    try:
        return run.finish()
    except KeyboardInterrupt:
        run.stop()
        return run.finish()
