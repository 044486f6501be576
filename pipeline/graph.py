"""Graphs: read from YAML and checked, so that a graph that cannot work is refused before it runs."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.definition.fragment_rules import check_fragments
from pipeline.definition.options import check_options, options_model
from pipeline.definition.yaml_lines import Path, parse_yaml
from pipeline.edges.lane import Policy
from pipeline.errors import ConfigError, OptionError, nearest
from pipeline.node import Batching, Node, OnError
from pipeline.operator import Operator, Source

Registry = Mapping[str, str | type[Operator]]  # operator name: its class, or "module:Class"


class BatchSpec(BaseModel):
    """How a node batches."""

    model_config = ConfigDict(extra="forbid")
    max: int | None = Field(default=None, ge=1, le=1024, description="most packets a call takes")
    wait_ms: float = Field(default=0, ge=0, le=10_000, description="how long a call waits for them")


class NodeSpec(BaseModel):
    """The keys of a node that the runtime reads; all others are options of its operator."""

    model_config = ConfigDict(extra="allow")
    op: str = Field(description="the operator: its name, or module:Class for your own")
    after: str | list[str] = Field(
        [], description="the nodes whose packets it takes; packets of several nodes are joined"
    )
    batch: BatchSpec = BatchSpec()
    workers: Annotated[int, Field(ge=1, le=256)] | Literal["auto"] = Field(
        1, description="operators that work in parallel, a thread each; auto: by processors and sources"
    )
    capacity: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="packets that each edge into it holds, for each stream if the edge drops; by default as "
        "many as a call takes, with files at least 4; behind a camera 2",
    )
    on_full: Policy | None = Field(
        None, description="what a full edge into it does; by default block, behind a camera drop_oldest"
    )
    on_error: OnError | None = Field(
        None, description="after an error of the operator: end the run (fail), or set the packet aside (skip)"
    )
    fragment: str | None = Field(
        None,
        min_length=1,
        description="the part of the graph that it belongs to, for running parts separately",
    )


class GraphSpec(BaseModel):
    """A graph file."""

    model_config = ConfigDict(extra="forbid")
    name: str
    description: str = ""
    processes: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="processes that share several files; auto: one a processor, faster if models are small",
    )
    between: dict[str, Any] = Field({}, description="options of the topics between fragments")
    graph: dict[str, NodeSpec] = Field(min_length=1)


@dataclass(frozen=True)
class Graph:
    """A checked graph; `nodes` are in topological order, the source first."""

    name: str
    description: str
    nodes: tuple[Node, ...]
    spec: dict[str, Any] = field(repr=False)  # the graph as data, with all changes
    where: str = "graph"
    processes: int | Literal["auto"] = "auto"  # processes that share several files
    between: dict[str, Any] = field(default_factory=dict)  # options of the topics between fragments

    @property
    def fragments(self) -> list[str]:
        """The parts that can run separately, the source's first; empty if the graph names none."""
        return list(dict.fromkeys(node.fragment for node in self.nodes if node.fragment))

    @property
    def source(self) -> Node:
        """The node that makes the packets."""
        return self.nodes[0]

    @property
    def sinks(self) -> list[Node]:
        """The nodes that keep or show results."""
        return [node for node in self.nodes if node.operator.sink]

    def node(self, name: str) -> Node:
        """The node of this name; KeyError if there is none."""
        return {node.name: node for node in self.nodes}[name]

    def consumers(self, node: Node) -> list[Node]:
        """The nodes that take this node's packets."""
        return [other for other in self.nodes if node.name in other.after]


def read_graph(
    text: str, registry: Registry, where: str = "graph", changes: Mapping[str, Any] | None = None
) -> Graph:
    """Read and check a graph. `changes` maps `node.option` to a value that replaces the file's.

    Raises:
        ConfigError: `FILE:LINE node.option: what was found, what was expected`, the first of them.
    """
    data, lines = parse_yaml(text, where)
    return check_graph(_apply(data, changes or {}), registry, where, lines)


def check_graph(
    data: Any, registry: Registry, where: str = "graph", lines: Mapping[Path, int] | None = None
) -> Graph:
    """Check a graph given as data: {name, description, graph: {node: {op, after, …}}}.

    Raises:
        ConfigError: as `read_graph`.
    """
    return _Checker(registry, where, lines or {}).check(data)


class _Checker:
    def __init__(self, registry: Registry, where: str, lines: Mapping[Path, int]):
        self._registry = registry
        self._where = where
        self._lines = lines

    def error(self, path: Path, message: str) -> ConfigError:
        """`FILE:LINE node.option: message`, with the line of the innermost key that is known."""
        known = next((path[:n] for n in range(len(path), 0, -1) if path[:n] in self._lines), None)
        where = f"{self._where}:{self._lines[known]}" if known else self._where
        shown = ".".join(str(part) for part in path[1:] if part != "graph") if path[:1] == ("graph",) else ""
        return ConfigError(f"{where} {shown or '.'.join(map(str, path)) or 'graph'}: {message}")

    def check(self, data: Any) -> Graph:
        try:
            spec = GraphSpec.model_validate(data)
        except ValidationError as error:
            raise self._say(error, (), list(GraphSpec.model_fields)) from None
        order = self._sort(spec)
        nodes: dict[str, Node] = {}
        provided: dict[str, frozenset[str]] = {}
        for name in order:
            node = self._node(name, spec.graph[name])
            arriving = frozenset[str]().union(*(provided[other] for other in node.after))
            self._check_needs(node, arriving)
            provided[name] = arriving | node.ports.provides
            nodes[name] = node
        self._check_sources(nodes.values())
        ordered = sorted(nodes.values(), key=lambda node: not issubclass(node.operator, Source))
        check_fragments(ordered, self.error)
        return Graph(
            spec.name, spec.description, tuple(ordered), data, self._where, spec.processes, spec.between
        )

    def _sort(self, spec: GraphSpec) -> list[str]:
        after = {name: _names(node.after) for name, node in spec.graph.items()}
        for name, others in after.items():
            for other in others:
                if other not in after:
                    raise self.error(
                        ("graph", name, "after"), f"no node {other!r}; {nearest(other, list(after))}"
                    )
        try:
            return list(TopologicalSorter(after).static_order())
        except CycleError as error:
            loop = " → ".join(reversed(error.args[1]))
            raise self.error(("graph", error.args[1][0], "after"), f"the graph has a cycle: {loop}") from None

    def _node(self, name: str, spec: NodeSpec) -> Node:
        operator = self._operator(name, spec.op)
        try:
            options = check_options(operator, spec.model_extra or {})
        except ValidationError as error:
            valid = [*options_model(operator).model_fields, *NodeSpec.model_fields]
            raise self._say(error, ("graph", name), valid) from None
        try:
            ports = operator.ports(options)
        except OptionError as error:
            raise self.error(("graph", name, error.option), str(error)) from None
        if operator.across_streams and spec.workers not in (1, "auto"):
            raise self.error(
                ("graph", name, "workers"),
                f"{spec.op} works on all streams together and has one worker; remove `workers`",
            )
        return Node(
            name=name,
            op=spec.op,
            operator=operator,
            options=options,
            after=tuple(_names(spec.after)),
            batching=Batching(spec.batch.max or operator.batch_max, spec.batch.wait_ms),
            workers=spec.workers,
            capacity=spec.capacity,
            on_full=spec.on_full,
            on_error=spec.on_error,
            fragment=spec.fragment,
            ports=ports,
        )

    def _operator(self, name: str, op: str) -> type[Operator]:
        found = self._registry.get(op, op if ":" in op else None)
        if found is None:
            raise self.error(
                ("graph", name, "op"), f"unknown operator {op!r}; {nearest(op, list(self._registry))}"
            )
        try:
            operator = resolve(found)
        except (ImportError, AttributeError) as error:
            raise self.error(("graph", name, "op"), f"cannot load operator {op!r}: {error}") from None
        if not issubclass(operator, Operator):
            raise self.error(("graph", name, "op"), f"{op!r} is no subclass of posestream.Operator")
        return operator

    def _check_needs(self, node: Node, arriving: frozenset[str]) -> None:
        missing = sorted(node.ports.needs - arriving)
        if not missing:
            return
        makers = [name for name, found in self._registry.items() if missing[0] in resolve(found).provides]
        hint = f"; {missing[0]} is provided by: {', '.join(makers)}" if makers else ""
        has = ", ".join(sorted(arriving)) or "nothing"
        raise self.error(
            ("graph", node.name, "after"),
            f"{node.op} needs {', '.join(missing)}, but what comes from {', '.join(node.after) or 'nowhere'} "
            f"has {has}{hint}",
        )

    def _check_sources(self, nodes: Iterable[Node]) -> None:
        sources = [node for node in nodes if issubclass(node.operator, Source)]
        if len(sources) != 1:
            found = ", ".join(node.name for node in sources) or "none"
            raise self.error(("graph",), f"a graph has one source operator (decode), found {found}")
        for node in nodes:
            if node in sources and node.after:
                raise self.error(("graph", node.name, "after"), f"{node.op} makes packets and takes none")
            if node not in sources and not node.after:
                raise self.error(
                    ("graph", node.name), f"`after` is missing: whose packets does {node.op} take?"
                )

    def _say(self, error: ValidationError, prefix: Path, valid: list[str]) -> ConfigError:
        # A misspelt name also shows as a missing one; naming the misspelling helps more.
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        path: Path = (*prefix, *first["loc"])
        if first["type"] == "extra_forbidden":
            name = str(first["loc"][-1])
            kind = "option" if len(path) > 1 else "key"
            valid = list(BatchSpec.model_fields) if "batch" in path[:-1] else valid
            return self.error(path, f"unknown {kind} {name!r}; {nearest(name, valid)}")
        if first["type"] == "missing":
            return self.error(path, "is missing")
        return self.error(path, f"{first['msg'][0].lower()}{first['msg'][1:]}, found {first['input']!r}")


def resolve(found: str | type[Operator]) -> type[Operator]:
    """The class of a registry entry; imports its module.

    Raises:
        ImportError, AttributeError: there is no such module or class.
    """
    if isinstance(found, type):
        return found
    module, _, name = found.partition(":")
    operator: type[Operator] = getattr(importlib.import_module(module), name)
    return operator


def _names(after: str | list[str]) -> list[str]:
    return [after] if isinstance(after, str) else list(after)


def _apply(data: Any, changes: Mapping[str, Any]) -> Any:
    for target, value in changes.items():
        node, _, option = target.partition(".")
        nodes = data.get("graph") if isinstance(data, dict) else None
        if not option or not isinstance(nodes, dict):
            raise ConfigError(f"cannot set {target!r}: expected NODE.OPTION, as in detect.min_score=0.4")
        if node not in nodes:
            raise ConfigError(f"cannot set {target!r}: no node {node!r}; {nearest(node, list(nodes))}")
        inner = nodes[node]
        *parents, last = option.split(".")
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    return data
