"""Graphs drawn as text and as Mermaid."""

from __future__ import annotations

from collections.abc import Iterator

from operators.fragments.cut import cut
from operators.graphs.graph_files import models_named
from pipeline.graph import Graph
from pipeline.node import Node


def as_text(graph: Graph) -> str:
    """The graph as lines: of each node its operator with options, and what it adds to a packet."""
    lines = [f"{graph.name}: {graph.description}" if graph.description else graph.name]
    for fragment in dict.fromkeys(node.fragment for node in graph.nodes):
        lines += ["", *([] if fragment is None else [_heading(graph, fragment)])]
        lines += _nodes([node for node in graph.nodes if node.fragment == fragment])
    return "\n".join(lines)


def _heading(graph: Graph, fragment: str) -> str:
    reads = cut(graph, fragment).reads
    return f"fragment {fragment}" + (f" ← topic {reads.name}, image: {reads.image}" if reads else "")


def _nodes(nodes: list[Node]) -> Iterator[str]:
    width = max(len(node.name) for node in nodes)
    for node in nodes:
        after = f" ← {', '.join(node.after)}" if node.after else ""
        yield f"  {node.name.ljust(width)}{after}"
        details = [_operator(node), f"provides: {', '.join(sorted(node.ports.provides))}"]
        yield from (f"  {' ' * width}   {detail}" for detail in details if not detail.endswith(": "))


def _operator(node: Node) -> str:
    """The operator of a node with its options, and what the node changes of the runtime's defaults."""
    runtime: dict[str, object] = {"workers": node.workers} if node.workers != 1 else {}
    if node.batching.max > 1:
        runtime["batch"] = node.batching.max
    if node.on_full:
        runtime["on_full"] = node.on_full
    options = ", ".join(f"{key}={value}" for key, value in {**node.options, **runtime}.items())
    return f"{node.op}({options})"


def as_mermaid(graph: Graph) -> str:
    """The graph as a Mermaid flowchart; dotted edges may drop packets, thick edges are topics."""
    lines = ["flowchart LR"]
    for fragment in dict.fromkeys(node.fragment for node in graph.nodes):
        lines += [] if fragment is None else [f"    subgraph {fragment}"]
        for node in graph.nodes:
            if node.fragment == fragment:
                models = "".join(f"<br/>{name}" for name in models_named(node.options))
                lines.append(f'    {node.name}["{node.name}{models}"]')
        lines += [] if fragment is None else ["    end"]
    for node in graph.nodes:
        inside = "-.->" if node.on_full and node.on_full != "block" else "-->"
        for name in node.after:
            arrow = inside if graph.node(name).fragment == node.fragment else "==>"
            lines.append(f"    {name} {arrow} {node.name}")
    return "\n".join(lines)
