"""kill -9 of one of three pose workers: is each frame that ingest sent in the results, and how often?

    python benchmarks/survival_workers.py [--seconds 60] [--cameras 6] [--stop kill|terminate] [--json FILE]

The layout of docker/compose.yaml as plain processes: a real broker (tests/support/kafka), an ingest that
plays clips at their own pace as cameras do, three workers, and this process, which reads the topic of
results. After a third of the time one worker is killed, after two thirds another one takes its place.
`--pose human-kafka` runs BlazePose, whose weights must be on this machine. The default is a stand-in that
takes 5 ms a frame; its track ids show when its memory of a stream began.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import msgpack
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from operators.records.messages import decode  # noqa: E402
from pipeline.packet import End, Packet  # noqa: E402
from tests.support.kafka.broker import Broker  # noqa: E402

WORKERS, PATIENCE_S = 3, 120
STAND_IN = """\
name: survival
between: {image: jpeg, partitions: 24}
graph:
  decode:  {op: decode, fragment: ingest}
  pose:    {op: "fragment_toys:Remember", ms: 5, after: decode, fragment: pose}
  results: {op: kafka_sink, topic: poses, after: pose, fragment: pose}
"""


def make_clip(path: Path, frames: int, fps: int) -> None:
    """Write a clip of a square that moves over noise."""
    noise = np.random.default_rng(0).integers(0, 64, (240, 320, 3), np.uint8)
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for index in range(frames):
            image = noise.copy()
            left = index * 3 % 280
            image[100:140, left : left + 40] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())


class Layout:
    """The processes of the fragments; `stop` kills them all."""

    def __init__(self, folder: Path, brokers: str, graph: str):
        self.folder, self.graph = folder, graph
        self.environment = os.environ | {
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}",
            "POSESTREAM_KAFKA": brokers,
        }
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, fragment: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tools.cli", "attach", "--graph", self.graph, "--fragment", fragment,
                   "--no-control", *arguments]  # fmt: skip
        # Each worker has a spool of its own, as on a machine of its own.
        home = (
            {}
            if "human" in self.graph
            else {"POSESTREAM_HOME": str(self.folder / f"home-{len(self.processes)}")}
        )
        with (self.folder / f"{len(self.processes)}-{fragment}.log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment | home, stdout=log, stderr=log
            )
        self.processes.append(process)
        return process

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


class Results:
    """The frames in the topic of results, with the broker's times."""

    def __init__(self, brokers: str):
        from kafka import KafkaConsumer

        self._consumer = KafkaConsumer(
            "poses", bootstrap_servers=brokers, auto_offset_reset="earliest", group_id=None,
            fetch_max_wait_ms=100,
        )  # fmt: skip
        self.frames: list[tuple[int, Packet]] = []
        self.ended: set[str] = set()

    def read(self) -> None:
        for records in self._consumer.poll(timeout_ms=200).values():
            for record in records:
                item = decode(record.value, record.headers)
                if isinstance(item, Packet):
                    self.frames.append((record.timestamp, item))
                elif isinstance(item, End):
                    self.ended.add(item.stream)


def sent_by_ingest(brokers: str, topic: str) -> set[tuple[str, int]]:
    """(stream, seq) of all frames in the topic of the ingest; images are not decoded."""
    from kafka import KafkaConsumer

    consumer = KafkaConsumer(topic, bootstrap_servers=brokers, auto_offset_reset="earliest", group_id=None)
    consumer.poll(timeout_ms=5000, max_records=1)
    ends = consumer.end_offsets(consumer.assignment())
    consumer.seek_to_beginning()
    sent: set[tuple[str, int]] = set()
    while any(consumer.position(place) < end for place, end in ends.items()):
        for records in consumer.poll(timeout_ms=500).values():
            for record in records:
                if ("type", b"frame") in record.headers:
                    data = msgpack.unpackb(record.value)
                    sent.add((data["stream"], data["seq"]))
    consumer.close()
    return sent


def figures(results: Results, sent: set[tuple[str, int]], killed_ms: int) -> dict[str, object]:
    """Missing and duplicate frames, and how long the streams of the killed worker got no results."""
    found = Counter((packet.stream, packet.seq) for _, packet in results.frames)
    times: dict[str, list[int]] = defaultdict(list)
    memories: dict[tuple[str, int], set[int]] = defaultdict(set)  # track ids by stream and epoch
    for at_ms, packet in results.frames:
        times[packet.stream].append(at_ms)
        ids = packet.instances.get("track_ids") if packet.instances is not None else None
        memories[packet.stream, packet.epoch].update(() if ids is None else ids.tolist())
    again = len(results.frames) - len(found)
    moved = {stream for stream, epoch in memories if epoch}
    silences = [b - a for stream in moved for a, b in pairwise(sorted(times[stream])) if b > killed_ms]
    return {
        "sent": len(sent),
        "missing": len(sent - set(found)),
        "duplicates": again,
        "duplicates_percent": round(100 * again / len(results.frames), 3),
        "runs": len({packet.run for _, packet in results.frames}),
        "streams_moved": len(moved),
        "longest_silence_s": max(silences, default=0) / 1e3,
        "epochs": len(memories),
        "track_ids_an_epoch": max(map(len, memories.values())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--cameras", type=int, default=6)
    parser.add_argument("--fps", type=int, default=30)
    parser.add_argument("--stop", choices=["kill", "terminate"], default="kill")
    parser.add_argument("--pose", choices=["stand-in", "human-kafka"], default="stand-in")
    parser.add_argument("--clip", type=Path, help="clip for all cameras; default: a square that moves")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, Broker(Path(name) / "kafka") as broker:
        folder = Path(name)
        clip = args.clip or folder / "clip.mp4"
        if not args.clip:
            make_clip(clip, args.seconds * args.fps, args.fps)
        (folder / "graph.yaml").write_text(STAND_IN)
        broker.create_topic("poses", partitions=24)
        graph = "human-kafka" if args.pose == "human-kafka" else str(folder / "graph.yaml")
        layout = Layout(folder, broker.bootstrap, graph)
        try:
            found = experiment(layout, broker.bootstrap, clip, args)
        finally:
            layout.stop()
    print(json.dumps(found, indent=2))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


def experiment(layout: Layout, brokers: str, clip: Path, args: argparse.Namespace) -> dict[str, object]:
    name = "human-kafka" if args.pose == "human-kafka" else "survival"
    workers = [layout.start("pose") for _ in range(WORKERS)]
    wait_for_group(brokers, f"{name}.pose")
    streams = [f"camera{i}" for i in range(args.cameras)]
    began = time.monotonic()
    ingest = layout.start("ingest", "--until-end", *(f"{stream}={clip}" for stream in streams))
    results = Results(brokers)
    killed_ms = 0
    while len(results.ended) < len(streams):
        results.read()
        passed = time.monotonic() - began
        if not killed_ms and passed > args.seconds / 3:
            victim = owner(workers, results)
            getattr(victim, args.stop)()
            killed_ms = round(time.time() * 1000)
        if len(layout.processes) == WORKERS + 1 and passed > args.seconds * 2 / 3:
            layout.start("pose")
        if passed > args.seconds + PATIENCE_S:
            logs = "".join(path.read_text() for path in sorted(layout.folder.glob("*.log")))
            raise SystemExit(f"after {passed:.0f} s only {sorted(results.ended)} have ended\n{logs}")
    ingest.wait()
    sent = sent_by_ingest(brokers, f"{name}.decode")
    options = {key: value for key, value in vars(args).items() if key not in ("json", "clip")}
    return options | figures(results, sent, killed_ms)


def owner(workers: list[subprocess.Popen[bytes]], results: Results) -> subprocess.Popen[bytes]:
    """The worker of the newest result, which the stand-in puts into its labels; else the first worker."""
    instances = results.frames[-1][1].instances if results.frames else None
    labels = None if instances is None else instances.get("labels")
    return next((w for w in workers if labels is not None and str(w.pid) in labels), workers[0])


def wait_for_group(brokers: str, group: str) -> None:
    """Wait until the group is stable and has all workers."""
    from kafka import KafkaAdminClient
    from kafka.errors import CoordinatorNotAvailableError

    admin = KafkaAdminClient(bootstrap_servers=brokers)
    deadline = time.monotonic() + PATIENCE_S
    try:
        while time.monotonic() < deadline:
            try:
                found = admin.describe_groups([group])[group]
            except CoordinatorNotAvailableError:
                found = {"group_state": ""}
            if found["group_state"] == "Stable" and len(found["members"]) == WORKERS:
                return
            time.sleep(0.2)
        raise SystemExit(f"the group {group} does not have {WORKERS} members after {PATIENCE_S} s")
    finally:
        admin.close()


if __name__ == "__main__":
    main()
