"""Graphs that cannot work are refused before anything runs, with file, line and a hint."""

from __future__ import annotations

import re

import pytest
import toys

from pipeline.errors import ConfigError, OptionError
from pipeline.graph import read_graph
from pipeline.graph_schema import graph_schema
from pipeline.operator import Operator, Ports

GOOD = """\
name: good
description: what it does
graph:
  numbers: {op: numbers}
  work:
    op: slow
    ms: 2
    after: numbers
    batch: {max: 4, wait_ms: 1}
    workers: 2
  scores: {op: add_field, after: work, capacity: 3, on_full: drop_oldest, on_error: skip}
  use: {op: needs_scores, after: scores}
"""


class Picky(Operator):
    def __init__(self, model: str = "a"):
        self.model = model

    @classmethod
    def ports(cls, options: dict[str, object]) -> Ports:
        if options.get("model") == "z":
            raise OptionError("model", "no model 'z'; did you mean 'a'?")
        return Ports(frozenset(), frozenset())

    def process(self, packets):
        return packets


REGISTRY = {**toys.REGISTRY, "picky": Picky}


def test_a_good_graph_is_read():
    graph = read_graph(GOOD, REGISTRY, "good.yaml")
    assert [node.name for node in graph.nodes] == ["numbers", "work", "scores", "use"]
    work = graph.node("work")
    assert (work.options, work.workers, work.batching.max, work.batching.wait_ms) == ({"ms": 2.0}, 2, 4, 1)
    assert (graph.node("scores").on_full, graph.node("scores").on_error) == ("drop_oldest", "skip")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("op: slow", "op: slwo", "good.yaml:6 work.op: unknown operator 'slwo'; did you mean 'slow'?"),
        ("ms: 2", "mss: 2", "good.yaml:7 work.mss: unknown option 'mss'; did you mean 'ms'?"),
        ("ms: 2", "ms: fast", "good.yaml:7 work.ms: input should be a valid number"),
        ("    ms: 2\n", "", "good.yaml:5 work.ms: is missing"),
        ("workers: 2", "workers: 0", "good.yaml:10 work.workers"),
        ("max: 4,", "maxi: 4,", "good.yaml:9 work.batch.maxi: unknown option 'maxi'; did you mean 'max'?"),
        ("after: work,", "after: wrk,", "good.yaml:11 scores.after: no node 'wrk'; did you mean 'work'?"),
        ("after: numbers", "after: use", "has a cycle: "),
        ("op: add_field", "op: same", "good.yaml:12 use.after: needs_scores needs scores, but what comes from "
                                      "scores has image; scores is provided by: add_field"),
        ("on_full: drop_oldest", "on_full: drop", "good.yaml:11 scores.on_full: input should be 'block', "),
        ("name: good", "nmae: good", "unknown key 'nmae'; did you mean 'name'?"),
        ("op: slow", "op: picky, model: z", "not valid YAML"),
        ("    op: slow\n    ms: 2\n", "    op: picky\n    model: z\n", "good.yaml:7 work.model: no model 'z'; did"),
        ("    ms: 2\n", "    ms: 2\n    ms: 3\n", "good.yaml:8 ms is given twice, first in line 7"),
        ("work:\n    op: slow", "work:\n    op: nowhere.at.all:Thing", "cannot load operator 'nowhere.at.all:Thing'"),
        ("work:\n    op: slow", "work:\n    op: collections:Counter", "'collections:Counter' is no subclass of"),
        ("  numbers: {op: numbers}", "  numbers: {op: same, after: use}", "cycle"),
        ("after: numbers", "after: []", "good.yaml:5 work: `after` is missing"),
        ("  use:", "  second: {op: numbers}\n  use:", "one source operator (decode), found numbers, second"),
    ],
)  # fmt: skip
def test_a_graph_that_cannot_work_is_refused(old, new, message):
    assert old in GOOD
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_graph(GOOD.replace(old, new, 1), REGISTRY, "good.yaml")


@pytest.mark.parametrize(
    "text", ["", "[]", "just words", "name: x", "name: x\ngraph: {}", "name: x\ngraph: []"]
)
def test_text_that_is_no_graph_is_refused(text):
    with pytest.raises(ConfigError):
        read_graph(text, REGISTRY, "bad.yaml")


def test_options_can_be_changed():
    graph = read_graph(GOOD, REGISTRY, "good.yaml", {"work.ms": 7, "work.batch.max": 9})
    assert graph.node("work").options == {"ms": 7.0}
    assert graph.node("work").batching.max == 9
    for target, message in [
        ("wrk.ms", "no node 'wrk'; did you mean 'work'?"),
        ("work", "expected NODE.OPTION"),
        ("work.mss", "unknown option 'mss'; did you mean 'ms'?"),
    ]:
        with pytest.raises(ConfigError, match=re.escape(message)):
            read_graph(GOOD, REGISTRY, "good.yaml", {target: 1})


def test_the_schema_knows_every_option():
    schema = graph_schema(REGISTRY)
    nodes = {node["title"]: node for node in schema["properties"]["graph"]["additionalProperties"]["anyOf"]}
    assert set(REGISTRY) < set(nodes)
    assert nodes["slow"]["properties"]["ms"]["type"] == "number"
    assert set(nodes["slow"]["required"]) == {"op", "ms"}
    assert {"after", "batch", "workers", "on_full"} < set(nodes["slow"]["properties"])
    assert nodes["slow"]["additionalProperties"] is False
