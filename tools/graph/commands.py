"""`posestream graph`: the ready graphs, and checks of one's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from operators import REGISTRY
from operators.graph_files import available_graphs, load_graph, models_named
from operators.kafka.fragment_topics import cut
from pipeline.definition.graph_schema import graph_schema
from pipeline.graph import Graph
from pipeline.node import Node
from tools.run import parse_changes

app = typer.Typer(no_args_is_help=True, help="List, draw and check graphs.", rich_markup_mode="markdown")

GraphName = Annotated[str, typer.Argument(help="A ready graph or a .yaml file.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="NODE.OPTION=VALUE", help="Change an option of the graph."),
]


@app.command("list")
def list_graphs() -> None:
    """List the ready graphs."""
    table = Table("graph", "what it does", "operators")
    for name in available_graphs():
        graph = load_graph(name)
        table.add_row(name, graph.description, " → ".join(node.op for node in graph.nodes))
    Console().print(table)


@app.command()
def show(
    graph: GraphName = "human-lite",
    changes: Changes = None,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="As Mermaid, for documents.")] = False,
) -> None:
    """Draw a graph as text, or as Mermaid.

    Example: `posestream graph show human-lite --mermaid`
    """
    loaded = load_graph(graph, parse_changes(changes or []))
    typer.echo(as_mermaid(loaded) if mermaid else as_text(loaded))


@app.command()
def validate(graph: GraphName, changes: Changes = None) -> None:
    """Check a graph as `run` would, and its fragments; exit code 2, with file and line, if it cannot work."""
    loaded = load_graph(graph, parse_changes(changes or []))
    for fragment in loaded.fragments:
        cut(loaded, fragment)
    typer.echo(f"{graph} is a valid graph: {' → '.join(node.name for node in loaded.nodes)}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of graph files, for your editor.

    Example: `posestream graph schema > posestream.schema.json`, and as first line of a graph file
    `# yaml-language-server: $schema=posestream.schema.json`
    """
    typer.echo(json.dumps(graph_schema(REGISTRY), indent=2))


def as_text(graph: Graph) -> str:
    """The graph as lines, a node a line: what it does, with which options, what it adds to a packet."""
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
        details = [_told(node), f"provides: {', '.join(sorted(node.ports.provides))}"]
        yield from (f"  {' ' * width}   {detail}" for detail in details if not detail.endswith(": "))


def _told(node: Node) -> str:
    runtime = {"workers": node.workers} if node.workers != 1 else {}
    if node.batching.max > 1:
        runtime["batch"] = node.batching.max
    if node.on_full:
        runtime["on_full"] = node.on_full  # type: ignore[assignment]
    options = ", ".join(f"{key}={value}" for key, value in {**node.options, **runtime}.items())
    return f"{node.op}({options})"


def as_mermaid(graph: Graph) -> str:
    """The graph as a Mermaid flowchart; edges that may drop packets are dotted, thick ones are topics."""
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
