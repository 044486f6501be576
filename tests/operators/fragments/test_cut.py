"""Graphs cut into fragments: what a fragment consists of, and what is refused."""

from __future__ import annotations

import re

import pytest
from farm_graph import FARM
from typer.testing import CliRunner

from operators import REGISTRY
from operators.fragments.cut import cut
from operators.fragments.topics import topics
from pipeline.errors import ConfigError
from pipeline.graph import Graph, read_graph
from tools.cli import app


def farm(old: str = "", new: str = "") -> Graph:
    assert old in FARM
    return read_graph(FARM.replace(old, new, 1), REGISTRY, "farm.yaml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("find, fragment: pose", "find", "farm.yaml:6 again: `fragment` is missing; decode is in ingest, so every"),
        ("more:    {op: \"toys:Same\", after: again", "more:    {op: \"toys:Same\", after: decode",
         "farm.yaml:8 more.fragment: record takes packets from decode, again, which are outside of it; a fragment reads"),
        ("again, fragment: record}\n  more", "again, fragment: ingest}\n  more",
         "fragment: fragments need each other: ingest → pose → ingest; put"),
        ("image: png", "image: none", "farm.yaml between.image: none, but find (fragment_toys:Remember) in fragment pose "
         "needs the pictures of decode; set jpeg, png or raw, or move find"),
        ("image: png", "image: gif", "farm.yaml between.image: Input should be 'jpeg', 'png', 'raw' or 'none', found 'gif'"),
        ("partitions: 6", "qualty: 6", "farm.yaml between.qualty: unknown option; did you mean 'quality'?"),
        ("partitions: 6", "topic: x", "farm.yaml between.topic: unknown option"),
        ("name: farm", "name: my farm", "farm.yaml decode: no topic can be named 'my farm.decode', only with letters"),
    ],
)  # fmt: skip
def test_graphs_that_cannot_be_cut_are_refused(old, new, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        topics(farm(old, new))


def test_an_unknown_fragment_is_refused():
    with pytest.raises(ConfigError, match=r"farm.yaml: no fragment 'pos'; did you mean 'pose'\?"):
        cut(farm(), "pos")
    without_fragments = read_graph(re.sub(", fragment: [a-z]+", "", FARM), REGISTRY, "farm.yaml")
    with pytest.raises(
        ConfigError, match=r"farm\.yaml: no node is in a fragment; give each `fragment: NAME`"
    ):
        cut(without_fragments, "pose")


def test_the_fragments_of_a_graph():
    fragments = {name: cut(farm(), name) for name in farm().fragments}
    assert [(t.name, t.image) for t in topics(farm())] == [("farm.decode", "png"), ("farm.again", "none")]
    nodes = {
        name: [(n.name, n.op, n.after) for n in fragment.graph.nodes] for name, fragment in fragments.items()
    }
    assert nodes["ingest"] == [("decode", "decode", ()), ("decode_topic", "kafka_sink", ("decode",))]
    assert nodes["pose"] == [
        ("decode", "kafka_source", ()),
        ("find", "fragment_toys:Remember", ("decode",)),
        ("again", "toys:Same", ("find",)),
        ("again_topic", "kafka_sink", ("again",)),
    ]
    assert nodes["record"][0] == ("again", "kafka_source", ())
    assert fragments["ingest"].sources == {}
    assert fragments["pose"].sources == {"farm.decode": "kafka:///farm.decode?group=farm.pose"}
    # The picture is sent only to a fragment that needs it; all other fields are always sent.
    assert fragments["pose"].graph.source.ports.provides == {"image"}
    assert fragments["record"].graph.source.ports.provides == {"track_ids", "scores", "labels"}
    sinks = [fragments[name].graph.nodes[-1].options for name in ("ingest", "pose")]
    assert [(s["topic"], s["image"], s["wait"]) for s in sinks] == [
        ("farm.decode", "png", "delivered"), ("farm.again", "none", "delivered")
    ]  # fmt: skip
    assert cut(farm(), "ingest", live=True).graph.nodes[-1].options["wait"] == "spooled"
    spooled = cut(farm("partitions: 6", "spool_dir: /spool"), "ingest").graph.nodes[-1]
    assert spooled.options["spool_dir"] == "/spool/farm.decode"
    # After a topic no frame is dropped, not even with cameras: it waits in the topic.
    assert fragments["pose"].graph.node("find").on_full == "block"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fragment", "pose", "walk.mp4"], "fragment pose reads the topic farm.decode and takes no SOURCE, found walk"),
        (["--fragment", "ingest"], "no SOURCE is given, and farm.ingest reads no topic"),
        (["--fragment", "ingest", "walk.mp4", "--out", "o"], "fragment ingest sends its packets on to the topic farm.deco"),
        (["--fragment", "ingest", "walk.mp4", "--video"], "ask for files where results are: --fragment pose or record"),
        ([], "no SOURCE is given: expected video files"),
    ],
)  # fmt: skip
def test_contradictory_arguments_are_refused(arguments, message, tmp_path):
    (tmp_path / "farm.yaml").write_text(FARM)
    result = CliRunner().invoke(app, ["run", "--graph", str(tmp_path / "farm.yaml"), *arguments])
    assert isinstance(result.exception, ConfigError)
    assert message in str(result.exception)


def test_a_graph_is_shown_with_its_fragments(tmp_path):
    (tmp_path / "farm.yaml").write_text(FARM)
    shown = CliRunner().invoke(app, ["graph", "show", str(tmp_path / "farm.yaml")]).output
    assert "fragment pose ← topic farm.decode, image: png" in shown
    mermaid = CliRunner().invoke(app, ["graph", "show", str(tmp_path / "farm.yaml"), "--mermaid"]).output
    assert "subgraph pose" in mermaid
    assert "decode ==> find" in mermaid
    assert "find --> again" in mermaid
