"""A sink is what its class declares: an operator of the user's own counts like one of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from operators import REGISTRY
from operators.graphs.graph_files import load_graph, with_sinks
from pipeline.errors import ConfigError
from pipeline.graph import Graph, resolve
from pipeline.operator import Operator
from pipeline.packet import Packet
from tools.profiling import advice
from tools.run_fragment import select_fragment

HERE = Path(__file__).resolve().parent


class MySink(Operator):
    """Declares its role; nothing in its name does."""

    sink = True

    def process(self, packets: list[Packet]) -> list[Packet]:
        return packets


class NotASink(MySink):
    """Named like a sink in the graph, and none."""

    sink = False


def graph_with(folder: Path, last: str, source: str = "toys:Numbers", fragment: str | None = None) -> Path:
    part = {"fragment": fragment} if fragment else {}
    nodes = {
        "numbers": {"op": source, **part},
        "work": {"op": "toys:Same", "after": "numbers", **part},
        "my_sink": {"op": f"{__name__}:{last}", "after": "work", **part},
    }
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump({"name": "own", "graph": nodes}))
    return path


def load(folder: Path, last: str, fragment: str | None = None) -> Graph:
    return load_graph(graph_with(folder, last, fragment=fragment))


def test_our_sinks_declare_themselves():
    assert {name for name, found in REGISTRY.items() if resolve(found).sink} == {
        "jsonl_sink", "coco_sink", "parquet_sink", "video_sink", "kafka_sink"
    }  # fmt: skip


def test_added_sinks_stand_beside_a_sink_of_the_user(tmp_path):
    files = {"jsonl_sink": {"dir": str(tmp_path)}}
    assert with_sinks(load(tmp_path, "MySink"), files).node("jsonl_sink").after == ("work",)
    assert with_sinks(load(tmp_path, "NotASink"), files).node("jsonl_sink").after == ("my_sink",)


def test_a_fragment_needs_a_sink_and_accepts_one_of_the_user(tmp_path):
    assert [
        node.name for node in select_fragment(load(tmp_path, "MySink", "all"), "all", {}, {}).graph.sinks
    ] == ["my_sink"]
    with pytest.raises(ConfigError, match="nothing takes the results of fragment all"):
        select_fragment(load(tmp_path, "NotASink", "all"), "all", {}, {})


@pytest.mark.parametrize(("last", "advised"), [("MySink", True), ("NotASink", False)])
def test_only_a_slow_sink_is_advised_to_lose_frames(tmp_path, last, advised):
    graph = load(tmp_path, last)
    measured = SimpleNamespace(node=lambda stage: graph.node(stage.name), in_order=lambda stage: False)
    stage = SimpleNamespace(name="my_sink", op=graph.node("my_sink").op, workers=1)
    assert any("on_full=drop_oldest" in line for line in advice.waiting(measured, stage)) == advised


@pytest.mark.parametrize(("last", "warned"), [("MySink", False), ("NotASink", True)])
def test_attach_warns_where_results_are_kept_nowhere(tmp_path, last, warned):
    path = graph_with(tmp_path, last, source="live_toys:ToyCamera")
    folders = [HERE.parents[1], HERE.parent / "support", HERE]
    done = subprocess.run(
        [sys.executable, "-m", "tools.cli", "attach", "a=200@2", "-g", path, "--until-end", "--no-control"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert ("no results are kept" in done.stderr) == warned
