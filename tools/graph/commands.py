"""`posestream graph`: list the ready graphs; draw and check a graph; print the schema of graph files."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from operators import REGISTRY
from operators.fragments.cut import cut
from operators.graphs.graph_files import available_graphs, load_graph
from pipeline.graph_schema import graph_schema
from tools.graph.drawing import as_mermaid, as_text
from tools.options.graph import Changes, parse_changes

app = typer.Typer(no_args_is_help=True, help="List, draw and check graphs.", rich_markup_mode="markdown")

GraphName = Annotated[str, typer.Argument(help="A ready graph or a .yaml file.")]


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
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Draw it as Mermaid, for documents.")] = False,
) -> None:
    """Draw a graph as text, or as Mermaid.

    Example: `posestream graph show human-lite --mermaid`
    """
    loaded = load_graph(graph, parse_changes(changes))
    typer.echo(as_mermaid(loaded) if mermaid else as_text(loaded))


@app.command()
def validate(graph: GraphName, changes: Changes = None) -> None:
    """Check a graph and its fragments as `run` does; exit code 2, with file and line, if it cannot work."""
    loaded = load_graph(graph, parse_changes(changes))
    for fragment in loaded.fragments:
        cut(loaded, fragment)
    typer.echo(f"{graph} is a valid graph: {' → '.join(node.name for node in loaded.nodes)}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of graph files, for your editor.

    Example: `posestream graph schema > posestream.schema.json`, and as the first line of a graph file
    `# yaml-language-server: $schema=posestream.schema.json`
    """
    typer.echo(json.dumps(graph_schema(REGISTRY), indent=2))
