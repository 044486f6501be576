"""Graphs cut into fragments: where that is refused, and that the fragments together do what the graph does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import pytest
from kafka import KafkaAdminClient, KafkaConsumer
from kafka.errors import CoordinatorNotAvailableError
from typer.testing import CliRunner

from operators import REGISTRY
from operators.fragments.cut import cut
from operators.fragments.topics import topics
from operators.records.messages import decode
from pipeline.errors import ConfigError
from pipeline.graph import Graph, read_graph
from pipeline.packet import End, Event, Packet
from tools.cli import app

ROOT = Path(__file__).resolve().parents[3]
STREAMS, FRAMES = ("yard", "barn", "gate", "north", "south"), 80
LIMIT_S = 90

FARM = """\
name: farm
between: {image: png, partitions: 6, session_s: 6}
graph:
  decode:  {op: decode, fragment: ingest}
  find:    {op: "fragment_toys:Remember", ms: 0, after: decode, fragment: pose}
  again:   {op: "toys:Same", after: find, fragment: pose}
  use:     {op: "toys:NeedsScores", after: again, fragment: record}
  more:    {op: "toys:Same", after: again, fragment: record}
  results: {op: jsonl_sink, dir: out, after: [use, more], fragment: record}
"""


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


# With a real broker, and a process for each fragment


@pytest.fixture
def folder(tmp_path, kafka):
    """Clips as folders of pictures, and a graph with a unique name."""
    rng = np.random.default_rng(0)
    for stream in STREAMS:
        (tmp_path / stream).mkdir()
        for i in range(FRAMES):
            image = np.full((48, 64, 3), rng.integers(256), np.uint8)
            cv2.imwrite(str(tmp_path / stream / f"{i:03}.png"), image)
    graph = FARM.replace("name: farm", f"name: farm-{uuid.uuid4().hex[:6]}")
    (tmp_path / "farm.yaml").write_text(graph)
    return tmp_path


@pytest.fixture
def name(folder):
    """The name of the graph."""
    return (folder / "farm.yaml").read_text().partition("\n")[0].removeprefix("name: ")


class Processes:
    """Processes of the posestream command; the fixture kills them at the end of the test."""

    def __init__(self, folder: Path, brokers: str):
        self.folder = folder
        self.environment = os.environ | {
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}",
            "POSESTREAM_KAFKA": brokers,
            "POSESTREAM_HOME": str(folder / "home"),
        }
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "tools.cli",
            name,
            "--graph",
            str(self.folder / "farm.yaml"),
            *arguments,
        ]
        with (self.folder / f"{len(self.started)}.log").open("wb") as log:
            process = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=log, stderr=log)
        self.started.append(process)
        return process

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))


@pytest.fixture
def processes(folder, kafka) -> Iterator[Processes]:
    processes = Processes(folder, kafka.bootstrap)
    yield processes
    for process in processes.started:
        process.kill()
        process.wait()


def items(brokers: str, topic: str, done) -> list[Packet | Event | End]:
    """The items of a topic, read until `done(items)` is true."""
    consumer = KafkaConsumer(topic, bootstrap_servers=brokers, auto_offset_reset="earliest", group_id=None)
    found: list[Packet | Event | End] = []
    deadline = time.monotonic() + LIMIT_S
    try:
        while not done(found):
            assert time.monotonic() < deadline, f"{len(found)} messages in {topic} after {LIMIT_S} s"
            for records in consumer.poll(timeout_ms=200).values():
                found += [decode(record.value, record.headers) for record in records]
    finally:
        consumer.close()
    return found


def wait_for(condition, what: str, processes: Processes) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not after {LIMIT_S} s: {what}\n{processes.logs()}"
        time.sleep(0.1)


def members(brokers: str, group: str) -> int:
    """How many members a group has; 0 until it has assigned the partitions."""
    admin = KafkaAdminClient(bootstrap_servers=brokers)
    try:
        found = admin.describe_groups([group])[group]
    except CoordinatorNotAvailableError:  # the first group that this broker ever sees
        return 0
    finally:
        admin.close()
    return len(found["members"]) if found["group_state"] == "Stable" else 0


def records(folder: Path) -> dict[str, list[dict]]:
    """The frames in each stream's JSONL file, without the values that differ from run to run."""
    frames = {}
    for path in folder.glob("*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        frames[path.stem] = [line for line in lines if "seq" in line]  # leave out events
    for frame in chain.from_iterable(frames.values()):
        for key in ("run", "captured_ns"):
            frame.pop(key, None)
        for instance in frame["instances"]:
            del instance["label"]
    return frames


@pytest.mark.timeout(300)
def test_fragments_in_processes_write_what_the_whole_graph_writes(folder, processes, name):
    whole = processes.start("run", "--out", "whole", "--set", "results.dir=as-well", *STREAMS)
    assert whole.wait(LIMIT_S) == 0, processes.logs()
    pose = processes.start("attach", "--fragment", "pose", "--control", "127.0.0.1:0")
    record = processes.start("run", "--fragment", "record")
    assert processes.start("run", "--fragment", "ingest", *STREAMS).wait(LIMIT_S) == 0, processes.logs()
    expected = records(folder / "whole")
    assert {stream: len(frames) for stream, frames in expected.items()} == dict.fromkeys(STREAMS, FRAMES)
    wait_for(lambda: records(folder / "out") == expected, "all frames are written", processes)
    for process, code in ((pose, 0), (record, 130)):
        process.terminate()
        assert process.wait(LIMIT_S) == code, processes.logs()
    assert records(folder / "out") == expected
    assert not list((folder / "out").glob("*.2.jsonl"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("stop", ["kill", "terminate"])
def test_other_workers_take_over_and_nothing_is_lost(stop, processes, name, kafka):
    workers = {
        w.pid: w
        for w in (processes.start("run", "--fragment", "pose", "--set", "find.ms=30") for _ in range(3))
    }
    wait_for(lambda: members(kafka.bootstrap, f"{name}.pose") == 3, "three workers have joined", processes)
    processes.start("run", "--fragment", "ingest", *STREAMS)
    # Late enough for offsets to be committed, long before the end.
    found = items(kafka.bootstrap, f"{name}.again", lambda found: any(p.seq > 25 for p in frames_in(found)))
    victim = next(int(p.instances.labels[0]) for p in frames_in(found) if p.seq > 25)
    getattr(workers[victim], stop)()
    found = items(kafka.bootstrap, f"{name}.again", lambda found: len(ends_in(found)) == len(STREAMS))

    frames = frames_in(found)
    seqs = {stream: sorted({p.seq for p in frames if p.stream == stream}) for stream in STREAMS}
    assert seqs == {stream: list(range(FRAMES)) for stream in STREAMS}
    # Frames that were done twice have the same key; they are a part of the work of one worker.
    assert len({p.run for p in frames}) == 1
    again = len(frames) - len({(p.stream, p.seq) for p in frames})
    assert again <= FRAMES / 4
    # Another worker begins a new epoch, with an event; a worker's memory never spans two epochs.
    moved = {p.stream for p in frames if p.epoch}
    assert moved
    assert moved == {item.stream for item in found if isinstance(item, Event) and item.kind == "moved"}
    epochs = defaultdict(list)
    for packet in frames:
        epochs[packet.stream, packet.epoch].append(packet)
    for (_, epoch), together in epochs.items():
        began = {int(p.instances.track_ids[0]) for p in together}
        pids = {p.instances.labels[0] for p in together}
        assert began == {min(p.seq for p in together)}
        assert len(pids) == 1
        assert epoch == 0 or str(victim) not in pids
    # A stream ends once, at its real end, and not when a worker loses it.
    assert Counter(item.stream for item in found if isinstance(item, End)) == Counter(STREAMS)


def frames_in(found: list[Packet | Event | End]) -> list[Packet]:
    return [item for item in found if isinstance(item, Packet)]


def ends_in(found: list[Packet | Event | End]) -> set[str]:
    return {item.stream for item in found if isinstance(item, End)}
