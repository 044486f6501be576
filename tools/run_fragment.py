"""What the commands that run one fragment of a graph have in common."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from operators.fragments.cut import Part, cut, make_topics
from operators.graph_files import with_sinks
from operators.kafka.client import BrokerError
from pipeline.errors import ConfigError
from pipeline.graph import Graph
from pipeline.run import Run, make_run
from pipeline.running import Running

RETRY_S = 2.0

log = logging.getLogger("posestream.fragments")


def take_part(
    graph: Graph,
    fragment: str,
    sources: Iterable[str],
    sinks: Mapping[str, dict[str, Any]],
    *,
    live: bool = False,
) -> Part:
    """The fragment of a graph, with these sinks behind it, for sources of these names.

    Raises:
        ConfigError: no such fragment, or it cannot run so: with sources though it reads a topic, with files
            though it sends its packets on, or with nowhere for its results to go.
    """
    part = cut(graph, fragment, live=live)
    if part.reads and sources:
        raise ConfigError(
            f"fragment {fragment} reads the topic {part.reads.name} and takes no SOURCE, found "
            f"{', '.join(sources)}; give sources to fragment {graph.fragments[0]}"
        )
    if part.writes and sinks:
        others = " or ".join(name for name in graph.fragments if name != fragment)
        raise ConfigError(
            f"fragment {fragment} sends its packets on to the topic {part.writes[0].name}; "
            f"ask for files where results are: --fragment {others}"
        )
    if not sinks and not part.graph.sinks:
        raise ConfigError(
            f"nothing takes the results of fragment {fragment}: give --out, or the graph a sink in it"
        )
    return dataclasses.replace(part, graph=with_sinks(part.graph, sinks))


def run_of(part: Part, sources: Mapping[str, str], processes: int | None) -> Running:
    """The run of a part: of files to their end, of a topic until it is stopped.

    Raises:
        ConfigError: there are no files to run on.
        BrokerError: Kafka cannot be used.
        SourceError: a file cannot be read.
    """
    if not part.reads and not sources:
        raise ConfigError(f"no SOURCE is given, and {part.graph.name} reads no topic: expected video files")
    make_topics(part)
    if part.reads:
        return Run(part.graph, part.sources, live=True, keep_open=True)
    return make_run(part.graph, sources, processes=processes)


def keep_making_topics(part: Part) -> None:
    """Make the topics of a part as soon as there is a broker; what runs for weeks starts without one."""
    try:
        make_topics(part)
    except BrokerError as error:
        log.warning("%s; trying again", error)
        threading.Thread(target=_try_again, args=(part,), name="topics", daemon=True).start()


def _try_again(part: Part) -> None:
    while True:
        time.sleep(RETRY_S)
        with contextlib.suppress(BrokerError):
            make_topics(part)
            return
