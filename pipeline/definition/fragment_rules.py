"""Fragments: the parts of a graph that may run in processes of their own, and where it may be cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from graphlib import CycleError, TopologicalSorter

from pipeline.definition.yaml_lines import Path
from pipeline.errors import ConfigError
from pipeline.node import Node


def check_fragments(nodes: Sequence[Node], error: Callable[[Path, str], ConfigError]) -> None:
    """Refuse fragments that cannot run separately; `error` makes the error for a place in the graph.

    Raises:
        ConfigError: some nodes are in a fragment and others are not; fragments need each other; or a fragment
            takes packets from several nodes outside of it.
    """
    named = next((node for node in nodes if node.fragment), None)
    if named is None:
        return
    for node in nodes:
        if not node.fragment:
            raise error(
                ("graph", node.name),
                f"`fragment` is missing; {named.name} is in {named.fragment}, so every node must be in one",
            )
    producers = producers_of(nodes)
    needs = {name: {producer.fragment for producer in outside} for name, outside in producers.items()}
    try:
        list(TopologicalSorter(needs).static_order())
    except CycleError as found:
        loop = " → ".join(reversed(found.args[1]))
        raise error(
            ("graph", _first_in(nodes, found.args[1][0]).name, "fragment"),
            f"fragments need each other: {loop}; put what lies between them into one",
        ) from None
    for name, outside in producers.items():
        if len(outside) > 1:
            raise error(
                ("graph", _first_in(nodes, name).name, "fragment"),
                f"{name} takes packets from {', '.join(p.name for p in outside)}, which are outside of it; "
                "a fragment reads one topic, so join them in the fragment before it",
            )


def producers_of(nodes: Sequence[Node]) -> dict[str, list[Node]]:
    """For each fragment, the nodes outside of it whose packets it takes."""
    taken: dict[str, set[str]] = {node.fragment: set() for node in nodes if node.fragment}
    for node in nodes:
        if node.fragment:
            taken[node.fragment].update(node.after)
    return {
        fragment: [node for node in nodes if node.name in names and node.fragment != fragment]
        for fragment, names in taken.items()
    }


def _first_in(nodes: Sequence[Node], fragment: str) -> Node:
    return next(node for node in nodes if node.fragment == fragment)
