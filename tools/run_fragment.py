"""Run one fragment of a graph: what `run --fragment` and `attach --fragment` share."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from operators.fragments.cut import Fragment, cut
from operators.fragments.topics import create_topics
from operators.graphs.graph_files import with_sinks
from operators.kafka.client import BrokerError
from pipeline.errors import ConfigError
from pipeline.graph import Graph
from pipeline.make_run import make_run
from pipeline.run import Run
from pipeline.running import Running

RETRY_S = 2.0

log = logging.getLogger("posestream.fragments")


def select_fragment(
    graph: Graph,
    name: str,
    sources: Iterable[str],
    sinks: Mapping[str, dict[str, Any]],
    *,
    live: bool = False,
) -> Fragment:
    """The fragment `name` of a graph with these sinks added, for sources of these names.

    Raises:
        ConfigError: there is no such fragment; or sources are given although it reads a topic; or sinks are
            given although it sends its packets on; or there is no sink for its results.
    """
    fragment = cut(graph, name, live=live)
    if fragment.reads and sources:
        raise ConfigError(
            f"fragment {name} reads the topic {fragment.reads.name} and takes no SOURCE, found "
            f"{', '.join(sources)}; give sources to fragment {graph.fragments[0]}"
        )
    if fragment.writes and sinks:
        others = " or ".join(other for other in graph.fragments if other != name)
        raise ConfigError(
            f"fragment {name} sends its packets on to the topic {fragment.writes[0].name}; "
            f"ask for files where results are: --fragment {others}"
        )
    if not sinks and not fragment.graph.sinks:
        raise ConfigError(
            f"nothing takes the results of fragment {name}: give --out, or add a sink to this fragment"
        )
    return dataclasses.replace(fragment, graph=with_sinks(fragment.graph, sinks))


def make_fragment_run(fragment: Fragment, sources: Mapping[str, str], processes: int | None) -> Running:
    """The run of a fragment: over files to their end, or over a topic until it is stopped.

    Raises:
        ConfigError: it reads no topic, and no files are given.
        BrokerError: Kafka cannot be used.
        SourceError: a file cannot be read.
    """
    if not fragment.reads and not sources:
        raise ConfigError(
            f"no SOURCE is given, and {fragment.graph.name} reads no topic: expected video files"
        )
    create_topics(fragment.topics, fragment.between)
    if fragment.reads:
        return Run(fragment.graph, fragment.sources, live=True, keep_open=True)
    return make_run(fragment.graph, sources, processes=processes)


def create_topics_when_possible(fragment: Fragment) -> None:
    """Create the topics of a fragment now, or as soon as a broker answers; does not wait for that."""
    try:
        create_topics(fragment.topics, fragment.between)
    except BrokerError as error:
        log.warning("%s; trying again", error)
        threading.Thread(target=_keep_trying, args=(fragment,), name="topics", daemon=True).start()


def _keep_trying(fragment: Fragment) -> None:
    while True:
        time.sleep(RETRY_S)
        with contextlib.suppress(BrokerError):
            create_topics(fragment.topics, fragment.between)
            return
