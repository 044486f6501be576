"""Which messages survive a kill -9 of the broker, and of the publisher?

    python benchmarks/survival.py [broker] [publisher] [--rate 500] [--away 30] [--seconds 20]

Frames of four streams are passed to `kafka_sink`. Meanwhile the broker is killed for `--away` seconds, or the
publishing process is killed and started again. Then the topic is read. Every (stream, run, seq) that was
handed over, so that `process` had returned, must be in the topic and in order; at most 1 % of the messages
may be there twice, with the same bytes.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from operators.kafka_sink import KafkaSink
from operators.records.messages import decode
from pipeline.operator import RunInfo
from pipeline.packet import Instances, Packet

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.support.kafka.broker import Broker

STREAMS = ("yard", "barn", "gate", "field")
MOST_TWICE = 0.01
Key = tuple[str, str, int]  # stream, run, seq


class Outcome(NamedTuple):
    """The messages that were handed over, compared with the topic."""

    handed: int
    missing: int
    twice: int
    disordered: int  # first copies behind a later frame of the same stream and run
    unlike: int  # second copies with other bytes

    @property
    def good(self) -> bool:
        few = self.twice <= MOST_TWICE * self.handed
        return bool(self.handed) and few and not (self.missing or self.disordered or self.unlike)

    def print(self, name: str, seconds: float) -> None:
        print(
            f"{name}: {self.handed} messages handed over in {seconds:.0f} s; missing {self.missing}, "
            f"twice {self.twice} ({self.twice / max(self.handed, 1):.2%}), out of order {self.disordered}, "
            f"second copies with other bytes {self.unlike}: {'good' if self.good else 'BAD'}"
        )


def frames() -> Iterator[Packet]:
    """Frames with one person, of all streams in turn, without end."""
    random = np.random.default_rng(0)
    person = Instances(
        skeleton="coco17",
        boxes=random.uniform(0, 1000, (1, 4)).astype(np.float32),
        track_ids=np.array([1]),
        keypoints=random.uniform(0, 1000, (1, 17, 2)).astype(np.float32),
    )
    for seq in itertools.count():
        for stream in STREAMS:
            yield Packet(stream, seq, seq * 8_000_000, time.time_ns(), (1920, 1080), instances=person)


def hand_over(sink: KafkaSink, run: str, rate: float, handed: int, until: float | None = None) -> float:
    """Pass `rate` frames/s to a sink, and log each to the file `handed`; the longest call in seconds."""
    start, slowest = time.monotonic(), 0.0
    for number, frame in enumerate(frames()):
        due = start + number / rate
        if until is not None and due > until:
            return slowest
        time.sleep(max(0.0, due - time.monotonic()))
        before = time.monotonic()
        sink.process([frame])
        slowest = max(slowest, time.monotonic() - before)
        os.write(handed, f"{frame.stream} {run} {frame.seq}\n".encode())
    return slowest


@contextmanager
def opened(brokers: str, folder: Path, client: str) -> Iterator[tuple[KafkaSink, str, int]]:
    """A sink, the id of its run, and the file that logs which frames were handed over."""
    run = RunInfo.new("survival")._replace(live=True)
    sink = KafkaSink("poses", brokers, spool_dir=str(folder / "spool"), flush_s=120, client=client)  # type: ignore[arg-type]
    handed = os.open(folder / "handed", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    sink.open(run)
    yield sink, run.id, handed
    sink.close()
    os.close(handed)


def kill_broker(broker: Broker, folder: Path, args: argparse.Namespace) -> Outcome:
    with opened(broker.bootstrap, folder, args.client) as (sink, run, handed):
        begin = time.monotonic()
        events = [
            (args.seconds / 2, broker.kill),
            (args.seconds / 2 + args.away, lambda: broker.start(wait=False)),
        ]
        threads = [threading.Timer(after, event) for after, event in events]
        for thread in threads:
            thread.start()
        slowest = hand_over(sink, run, args.rate, handed, begin + args.seconds + args.away)
        most = sink.spool.waiting
        for thread in threads:
            thread.join()
        broker.wait_ready()
    counted = ", ".join(f"{name} {n}" for name, n in sorted(sink.counters.items()))
    print(f"  longest call of `process` {slowest * 1e3:.1f} ms, {most} messages waited; {counted}")
    return read_topic(broker.bootstrap, folder)


def kill_publisher(broker: Broker, folder: Path, args: argparse.Namespace) -> Outcome:
    command = [sys.executable, __file__, "--write", broker.bootstrap, str(folder), "--client", args.client]
    for stop in (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM):
        process = subprocess.Popen([*command, "--rate", str(args.rate)])
        time.sleep(args.seconds)
        process.send_signal(stop)
        process.wait()
    return read_topic(broker.bootstrap, folder)


def write(brokers: str, folder: Path, args: argparse.Namespace) -> None:
    """Publish until a signal comes: the parent process kills this one, or ends it with SIGTERM."""
    with suppress(KeyboardInterrupt), opened(brokers, folder, args.client) as (sink, run, handed):
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            hand_over(sink, run, args.rate, handed)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def read_topic(brokers: str, folder: Path) -> Outcome:
    """Compare the topic with the messages that were handed over."""
    from kafka import KafkaConsumer

    handed = [
        (stream, run, int(seq))
        for stream, run, seq in map(str.split, (folder / "handed").read_text().splitlines())
    ]
    consumer = KafkaConsumer("poses", bootstrap_servers=brokers, auto_offset_reset="earliest")
    first: dict[Key, bytes] = {}
    newest: dict[tuple[str, str], int] = {}
    twice = disordered = unlike = 0
    while not consumer.assignment():
        consumer.poll(200)
    consumer.seek_to_beginning()
    ends = consumer.end_offsets(consumer.assignment())
    while any(consumer.position(part) < end for part, end in ends.items()):
        for message in itertools.chain.from_iterable(consumer.poll(500).values()):
            packet = decode(message.value, message.headers)
            assert isinstance(packet, Packet)
            key = (packet.stream, packet.run, packet.seq)
            if key in first:
                twice += 1
                unlike += first[key] != message.value
                continue
            first[key] = message.value
            disordered += packet.seq < newest.get(key[:2], -1)
            newest[key[:2]] = packet.seq
    consumer.close()
    return Outcome(len(handed), len(set(handed) - first.keys()), twice, disordered, unlike)


CASES = {"broker": kill_broker, "publisher": kill_publisher}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", choices=[[], *CASES], default=[])
    parser.add_argument("--rate", type=float, default=500, help="messages a second")
    parser.add_argument("--away", type=float, default=30, help="seconds without a broker")
    parser.add_argument(
        "--seconds", type=float, default=20, help="before and after the outage, or of each publisher"
    )
    parser.add_argument("--client", default="auto", choices=["auto", "kafka-python", "confluent"])
    parser.add_argument("--write", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.getLogger("posestream").setLevel(logging.WARNING)
    if args.write:
        write(args.write[0], Path(args.write[1]), args)
        return
    bad = 0
    for name in args.cases or CASES:
        with tempfile.TemporaryDirectory() as folder, Broker(Path(folder) / "kafka") as broker:
            broker.create_topic("poses", partitions=2)
            begin = time.monotonic()
            outcome = CASES[name](broker, Path(folder), args)
            outcome.print(f"kill -9 of the {name}, {args.client}", time.monotonic() - begin)
            bad += not outcome.good
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
