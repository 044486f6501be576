"""Fragments in processes of their own, with a real broker: together they do what the whole graph does."""

from __future__ import annotations

import json
import os
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
from farm_graph import FARM
from kafka import KafkaAdminClient, KafkaConsumer
from kafka.errors import CoordinatorNotAvailableError

from operators.records.messages import decode
from pipeline.packet import End, Event, Packet

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
STREAMS, FRAMES = ("yard", "barn", "gate", "north", "south"), 80
LIMIT_S = 90


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
