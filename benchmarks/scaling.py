"""How many brokers, disks and cores a number of cameras needs: measured on one machine, then calculated.

    python benchmarks/scaling.py [CLIP ...] [--height 1080] [--fps 30] [--json FILE]

Measured: bytes and milliseconds of a message with each image codec, on frames of the clips (default: the
sample clip), and of messages with instances only. Read from benchmarks/results: how long a core takes for
the poses of a frame. Assumed, and changed on the command line: what a broker's network card, a partition and
a disk can carry. Simulated: how evenly the hash of a stream's name distributes streams over the workers of a
fragment.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from harness import sample_clip

from operators.decode import Decode
from operators.records.messages import decode, encode
from pipeline.packet import Instances, Packet

RESULTS = Path(__file__).with_name("results") / "mediapipe_2_cores.json"
STREAMS = 4  # of the rows that are used from there
CODECS = ("jpeg", "png", "raw")
CAMERAS = (10, 1_000, 100_000)
# Cameras, workers.
SPREADS = ((4, 3), (10, 3), (10, 10), (100, 10), (1_000, 10), (1_000, 100), (100_000, 1_000))
FRAMES = 12  # from each clip
FULL = 0.6  # share of a card, a disk or a core that planning may use


@dataclass(frozen=True)
class Cost:
    """The size of a message, and the processor time to make and to read it."""

    bytes: float
    encode_ms: float
    decode_ms: float


@dataclass(frozen=True)
class Limits:
    """The assumed capacity of one unit of each resource."""

    network_mb_s: float  # a broker's network card, each way
    disk_mb_s: float  # written by a broker
    disk_tb: float  # kept by a broker
    partition_mb_s: float
    partitions: int  # on a broker, with replicas
    worker_cores: int
    replication: int
    keep_s: float


@dataclass(frozen=True)
class Load:
    """What a number of cameras needs."""

    mb_s: float  # into the topics
    messages_s: float
    by_network: int  # brokers needed because of their network cards,
    by_disk: int  # because of the speed of their disks,
    by_space: int  # because of the space on their disks
    by_partitions: int
    partitions: int
    ingest_cores: float
    pose_cores: float


def frames_of(clip: Path, height: int) -> Iterator[Packet]:
    """Frames spread over the clip, scaled so that their shorter side is `height` px."""
    found = Decode(stride=8).read(clip.stem, str(clip))
    for packet in islice(found, FRAMES):
        assert packet.image is not None
        scale = height / min(packet.size)
        image = (
            packet.image
            if scale == 1
            else cv2.resize(packet.image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        )
        yield packet.replace(picture=image, size=(image.shape[1], image.shape[0]))


def persons(count: int, keypoints: int = 33) -> Instances:
    """Instances as human-lite gives them: boxes, ids, 33 keypoints in 2D and 3D."""
    rng = np.random.default_rng(0)
    return Instances(
        skeleton="blazepose33",
        boxes=rng.uniform(0, 1080, (count, 4)).astype(np.float32),
        scores=rng.uniform(0, 1, count).astype(np.float32),
        labels=np.array(["person"] * count, np.object_),
        track_ids=np.arange(count, dtype=np.int64),
        detected=np.ones(count, np.bool_),
        rois=rng.uniform(0, 1080, (count, 5)).astype(np.float32),
        keypoints=rng.uniform(0, 1080, (count, keypoints, 2)).astype(np.float32),
        keypoint_scores=rng.uniform(0, 1, (count, keypoints)).astype(np.float32),
        keypoints_3d=rng.uniform(-1, 1, (count, keypoints, 3)).astype(np.float32),
    )


def frame_ms() -> tuple[float, float]:
    """Processor time of a frame with BlazePose: to decode it, and for everything else."""
    rows = {
        row["side"]: row
        for row in json.loads(RESULTS.read_text())["rows"]
        if (row["peer"], row["streams"]) == ("mediapipe", STREAMS)
    }
    ours, decode_ms = rows["posestream"], rows["bound"]["parts_ms"]["decode"]
    return decode_ms, 1e3 * ours["cores"] / ours["fps"]["median"] - decode_ms


def cost_of(packets: Sequence[Packet], encoding: str, image: str) -> Cost:
    """Medians over the packets, from the second of two rounds."""
    sizes, encoded, decoded = [], [], []
    for packet in [*packets, *packets]:
        message, encode_ms = timed(lambda p=packet: encode(p, "benchmark", encoding, image))  # type: ignore[arg-type, misc]
        _, decode_ms = timed(lambda m=message: decode(m.value, m.headers))  # type: ignore[misc]
        sizes.append(len(message.value))
        encoded.append(encode_ms)
        decoded.append(decode_ms)
    half = len(packets)
    return Cost(
        statistics.mean(sizes[half:]), statistics.median(encoded[half:]), statistics.median(decoded[half:])
    )


def timed(work: Callable[[], object]) -> tuple[object, float]:
    """The result of `work`, and the ms of processor time it took."""
    start = time.thread_time()
    result = work()
    return result, 1e3 * (time.thread_time() - start)


def load_of(messages_s: float, cost: Cost, limits: Limits, ingest_ms: float, pose_ms: float) -> Load:
    """What this many messages a second need; `ingest_ms` and `pose_ms` are for a frame, on one core."""
    mb_s = messages_s * cost.bytes / 1e6
    # A broker receives messages of producers and copies of other brokers' partitions; it sends copies and the
    # messages for one group of consumers.
    carried = mb_s * limits.replication
    pose_cores = messages_s * pose_ms / 1e3 / FULL
    workers = math.ceil(pose_cores / limits.worker_cores)
    partitions = max(workers, math.ceil(mb_s / limits.partition_mb_s), 1)
    return Load(
        mb_s=mb_s,
        messages_s=messages_s,
        by_network=math.ceil(carried / limits.network_mb_s / FULL),
        by_disk=math.ceil(carried / limits.disk_mb_s / FULL),
        by_space=math.ceil(carried * limits.keep_s / 1e6 / limits.disk_tb / FULL),
        by_partitions=math.ceil(partitions * limits.replication / limits.partitions),
        partitions=partitions,
        ingest_cores=messages_s * ingest_ms / 1e3 / FULL,
        pose_cores=pose_cores,
    )


def busiest(cameras: int, workers: int, partitions: int, rounds: int = 20) -> float:
    """Streams of the busiest worker divided by the mean, with names hashed to partitions as in Kafka."""
    from kafka.partitioner.default import murmur2

    ratios = []
    for offset in range(rounds):
        streams = [0] * workers
        for camera in range(cameras):
            partition = (murmur2(f"camera-{offset}-{camera:05}".encode()) & 0x7FFFFFFF) % partitions
            streams[partition % workers] += 1  # sticky assignment: the same number of partitions for each
        ratios.append(max(streams) * workers / cameras)
    return statistics.mean(ratios)


def print_costs(costs: dict[str, Cost], fps: float) -> None:
    print(
        f"\n| message | bytes | MB/s a camera at {fps:g} fps | encode ms | decode ms |\n|---|---|---|---|---|"
    )
    for name, cost in costs.items():
        rate = cost.bytes * fps / 1e6
        print(f"| {name} | {cost.bytes:,.0f} | {rate:.3g} | {cost.encode_ms:.2f} | {cost.decode_ms:.2f} |")


def print_loads(loads: dict[str, dict[int, Load]]) -> None:
    columns = ["cameras", "messages/s", "into topics", "brokers by network, disk speed, space, partitions",
               "partitions", "cores to ingest, for poses"]  # fmt: skip
    for name, by_cameras in loads.items():
        print(f"\n{name}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
        for cameras, load in by_cameras.items():
            needed = f"{load.by_network:,}, {load.by_disk:,}, {load.by_space:,}, {load.by_partitions:,}"
            print(
                f"| {cameras:,} | {load.messages_s:,.0f} | {load.mb_s:,.1f} MB/s | {needed} | "
                f"{load.partitions:,} | {load.ingest_cores:,.0f}, {load.pose_cores:,.0f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--height", type=int, default=1080, help="shorter side of the frames, px")
    parser.add_argument("--fps", type=float, default=30)
    parser.add_argument("--network-gbit", type=float, default=10, help="a broker's network card, each way")
    parser.add_argument("--disk-mb-s", type=float, default=1000, help="written by a broker's disks")
    parser.add_argument("--disk-tb", type=float, default=8, help="kept on a broker's disks")
    parser.add_argument("--partition-mb-s", type=float, default=10, help="through one partition")
    parser.add_argument("--partitions", type=int, default=4000, help="most on a broker, with replicas")
    parser.add_argument("--worker-cores", type=int, default=16, help="cores of a pose machine")
    parser.add_argument("--replication", type=int, default=3)
    parser.add_argument(
        "--keep-s", type=float, default=3600, help="how long frames are kept (between.keep_s)"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    limits = Limits(
        args.network_gbit * 125, args.disk_mb_s, args.disk_tb, args.partition_mb_s, args.partitions,
        args.worker_cores, args.replication, args.keep_s,
    )  # fmt: skip
    packets = [packet for clip in args.clips or [sample_clip()] for packet in frames_of(clip, args.height)]
    size = f"{packets[0].size[0]}x{packets[0].size[1]}"
    costs = {f"{size} {codec}": cost_of(packets, "msgpack", codec) for codec in CODECS}
    for people in (1, 20):
        seen = [packet.replace(picture=None, instances=persons(people)) for packet in packets]
        costs[f"{people} people, msgpack"] = cost_of(seen, "msgpack", "none")
        costs[f"{people} people, JSON"] = cost_of(seen, "json", "none")
    decode_ms, pose_ms = frame_ms()
    loads = {}
    for codec in CODECS:
        cost = costs[f"{size} {codec}"]
        parts = decode_ms + cost.encode_ms, cost.decode_ms + pose_ms
        loads[f"Frames as {codec}, poses behind the topic:"] = {
            cameras: load_of(cameras * args.fps, cost, limits, *parts) for cameras in CAMERAS
        }
    beside = costs["1 people, msgpack"]
    loads["Poses beside the cameras, one person's in the topic:"] = {
        n: load_of(n * args.fps, beside, limits, decode_ms + pose_ms + beside.encode_ms, 0) for n in CAMERAS
    }
    spread = {pair: busiest(*pair, partitions=max(24, 4 * pair[1])) for pair in SPREADS}
    print(
        f"{len(packets)} frames of {size}; on a core a pose takes {pose_ms:.1f} ms, decoding {decode_ms:.1f}"
    )
    print_costs(costs, args.fps)
    print_loads(loads)
    print("\n| cameras | workers | the busiest has, of the mean |\n|---|---|---|")
    for (cameras, workers), ratio in spread.items():
        print(f"| {cameras:,} | {workers:,} | {ratio:.2f} |")
    if args.json:
        data = {
            "frame": size, "fps": args.fps, "limits": asdict(limits),
            "pose_ms": pose_ms, "decode_ms": decode_ms,
            "costs": {name: asdict(cost) for name, cost in costs.items()},
            "loads": {name: {n: asdict(load) for n, load in by.items()} for name, by in loads.items()},
            "spread": [{"cameras": c, "workers": w, "ratio": r} for (c, w), r in spread.items()],
        }  # fmt: skip
        args.json.write_text(json.dumps(data, indent=2) + "\n")


if __name__ == "__main__":
    main()
