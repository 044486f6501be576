"""A long-running service: sources come and go, connections fail, and nothing of them may stay behind.

    python benchmarks/soak.py [--cycles 1000] [--failures 200] [--graph human-lite] [--json FILE]

One live run, as in `posestream attach`, with results in JSONL files. A cycle attaches a source, waits until
its first frames are finished, and detaches it. The sources are in turn a file, a camera that sends JPEG over
HTTP, and, if GStreamer's RTSP server is installed, a real RTSP camera; every second source has a name that
was used before. Failures are sources whose connection is refused or cut off, or whose server sends garbage or
nothing. To save time, a failed source is tried once instead of again and again, and a silent server is given
up after two seconds.

Exit code 1 unless everything is flat from cycle 300 on (a run keeps the figures of the last 100 sources that
have ended): not one more thread, not one more file descriptor, and memory that grows by less than 4 MB or 2 %
in 1,000 cycles, by the median of the slopes between all pairs of samples. Linux only: it reads /proc.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import logging
import multiprocessing
import random
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import harness
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from operators.cameras import camera_source
from operators.graphs.graph_files import load_graph, with_sinks
from pipeline.run import Run
from tests.support.faulty_server import FaultyServer
from tests.support.videos.camera_senders import http_server, send_pictures
from tests.support.videos.live_reader import camera_threads
from tests.support.videos.rtsp_fixtures import RtspServer, make_clip, unavailable
from tools.service.attached import Attached
from tools.service.prometheus import make_registry, scrape

LIBC = ctypes.CDLL(None)
MB = 1e6
SIZE = 320, 240
AT_ONCE = 4  # sources that are attached at the same time
SILENT_EVERY = 20  # failures, of which two have a silent server
FRAMES = 3  # that a source must finish before it is detached
SAMPLES = 10
WARM_CYCLES = 300  # after these the run keeps the figures of as many ended sources as it ever will
OPEN_S = 2.0  # time for a server to answer
PATIENCE_S = 60.0
GROWTH, GROWTH_MB = 0.02, 4.0  # limits of the growth of memory in 1,000 cycles


@dataclass(frozen=True)
class Sample:
    """What the process holds while no source is attached."""

    cycles: int
    failures: int
    seconds: float
    memory_mb: float
    threads: int
    files: int
    figures_ms: float  # time to get the figures of the run
    metrics_kb: float  # size of the metrics for Prometheus


@dataclass
class Soak:
    """The run and the sources that are attached to it."""

    attached: Attached
    good: Sequence[str]  # addresses of sources that can be read
    bad: Sequence[str]  # of sources that fail
    silent: str  # of a server that never answers
    busy: dict[str, int] = field(default_factory=dict)  # source: detach it at so many finished frames

    def cycles(self, first: int, number: int) -> None:
        """Attach and detach `number` sources, several at the same time."""
        for cycle in range(first, first + number):
            name = f"visitor-{cycle}"
            if cycle % 2:  # a name that was used before, and is free now
                name = next(n for i in itertools.count() if (n := f"camera-{i}") not in self.busy)
            finished = {stream.name: stream.finished for stream in self.attached.run.stats().streams}
            self.attached.add(name, self.good[cycle % len(self.good)])
            self.busy[name] = finished.get(name, 0) + FRAMES
            self._until(AT_ONCE - 1)
        self._until(0)

    def _until(self, busy: int) -> None:
        """Detach sources that have given their frames, until at most `busy` sources are left."""
        deadline = time.monotonic() + PATIENCE_S
        while len(self.busy) > busy:
            if time.monotonic() > deadline:
                sources = self.attached.run.sources()
                waiting = ", ".join(f"{name} ({sources.get(name, 'ended')})" for name in self.busy)
                raise SystemExit(f"not enough frames within {PATIENCE_S:g} s: {waiting}")
            time.sleep(0.02)
            for stream in self.attached.run.stats().streams:
                if stream.finished >= self.busy.get(stream.name, stream.finished + 1):
                    if not self.attached.remove(stream.name):
                        raise SystemExit(f"{stream.name} cannot be detached")
                    del self.busy[stream.name]

    def failures(self, first: int, number: int) -> None:
        """Attach `number` sources that cannot be connected to."""
        for failure in range(first, first + number):
            name = f"broken-{failure % 7}" if failure % 2 else f"broken-once-{failure}"
            silent = failure % SILENT_EVERY < 2
            self.attached.add(name, self.silent if silent else self.bad[failure % len(self.bad)])
            if silent and failure % 2:  # detach it while it is connecting
                time.sleep(0.05)
                self.attached.remove(name)
            self._wait_until_gone(name)

    def _wait_until_gone(self, name: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while name in self.attached.run.sources():
            if time.monotonic() > deadline:
                raise SystemExit(f"{name} was not given up within {PATIENCE_S:g} s")
            time.sleep(0.005)


def main() -> int:
    parser = harness.parser(__doc__ or "")
    parser.add_argument("--cycles", type=int, default=1000, help="default: 1,000")
    parser.add_argument("--failures", type=int, default=200, help="default: 200")
    parser.add_argument("--graph", default="human-lite", help="default: human-lite")
    arguments = parser.parse_args()
    logging.disable(logging.ERROR)  # the failures are intended
    camera_source.OPEN_S = OPEN_S
    with tempfile.TemporaryDirectory() as folder, ExitStack() as servers:
        good, bad, silent = addresses(Path(folder), servers)
        changes = {"decode.attempts": 1, "decode.loop": 0}
        graph = with_sinks(load_graph(arguments.graph, changes), {"jsonl_sink": {"dir": f"{folder}/out"}})
        run = Run(graph, live=True, max_age_s=2.0, keep_open=True)
        soak = Soak(Attached(run), good, bad, silent)
        soak.attached.start()
        samples = list(measure(soak, arguments.cycles, arguments.failures))
        run.stop()
        stats = run.finish()
    targets = flat(samples)
    targets["every frame that was read is finished or counted as dropped"] = (
        stats.edges[0].received == stats.finished + stats.dropped
    )
    for target, met in targets.items():
        print(f"  {'met   ' if met else 'MISSED'}  {target}")
    harness.write(arguments.json, harness.result([asdict(sample) for sample in samples], targets=targets))
    return 0 if all(targets.values()) else 1


def measure(soak: Soak, cycles: int, failures: int) -> Iterator[Sample]:
    """Do the work; print and yield a sample after each tenth of it."""
    began_s = time.monotonic()
    registry = make_registry(soak.attached.run)
    print(f"{'cycles':>7}{'failures':>10}{'s':>7}{'memory MB':>11}{'threads':>9}{'files':>7}"
          f"{'figures ms':>12}{'metrics kB':>12}")  # fmt: skip
    for part in range(SAMPLES):
        done = [number * part // SAMPLES for number in (cycles, failures)]
        upto = [number * (part + 1) // SAMPLES for number in (cycles, failures)]
        soak.cycles(done[0], upto[0] - done[0])
        soak.failures(done[1], upto[1] - done[1])
        soak.attached.sample()  # as `attach` does
        _settle()
        start_s = time.perf_counter()
        soak.attached.run.stats()
        figures_ms = 1e3 * (time.perf_counter() - start_s)
        process = psutil.Process()
        sample = Sample(
            cycles=upto[0],
            failures=upto[1],
            seconds=round(time.monotonic() - began_s, 1),
            memory_mb=round(process.memory_info().rss / MB, 2),
            threads=process.num_threads(),
            files=process.num_fds(),
            figures_ms=round(figures_ms, 2),
            metrics_kb=round(len(scrape(registry, "")[0]) / 1e3, 1),
        )
        print(f"{sample.cycles:7}{sample.failures:10}{sample.seconds:7.1f}{sample.memory_mb:11.1f}"
              f"{sample.threads:9}{sample.files:7}{sample.figures_ms:12.1f}{sample.metrics_kb:12.1f}",
              flush=True)  # fmt: skip
        yield sample


def _settle() -> None:
    """Wait until FFmpeg has closed its connections, and free memory."""
    deadline = time.monotonic() + 20
    while camera_threads() and time.monotonic() < deadline:
        time.sleep(0.05)
    gc.collect()
    if hasattr(LIBC, "malloc_trim"):  # glibc keeps freed memory; that is no leak
        LIBC.malloc_trim(0)


def flat(samples: Sequence[Sample]) -> dict[str, bool]:
    """The targets, and whether each is met."""
    warm = [sample for sample in samples if sample.cycles >= WARM_CYCLES]
    if len(warm) < 3:
        sys.exit(f"too few cycles: the first {WARM_CYCLES} only warm up; give --cycles 1000")
    slope = statistics.median(
        (b.memory_mb - a.memory_mb) / (b.cycles - a.cycles) for a, b in itertools.combinations(warm, 2)
    )
    return {
        f"memory grows by {1000 * slope:+.2f} MB in 1,000 cycles, at most {GROWTH_MB:g} MB or {GROWTH:.0%}":
            1000 * slope <= max(GROWTH_MB, GROWTH * warm[0].memory_mb),
        f"threads {warm[0].threads} → {warm[-1].threads}": warm[-1].threads <= warm[0].threads,
        f"file descriptors {warm[0].files} → {warm[-1].files}": warm[-1].files <= warm[0].files,
    }  # fmt: skip


def addresses(folder: Path, servers: ExitStack) -> tuple[list[str], list[str], str]:
    """Addresses that can be read, that fail, and one that never answers. The servers are another process."""
    good = [str(make_clip(folder / "clip.mp4", SIZE))]
    here, there = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    process.start()
    servers.callback(process.join)
    servers.callback(here.send, "end")
    urls: dict[str, str] = here.recv()
    good.append(urls["pictures"])
    if reason := unavailable():
        print(f"without RTSP: {reason}")
    else:
        server = RtspServer({"clip": make_clip(folder / "clip.h264", SIZE)})
        server.start()
        servers.callback(server.kill)
        good.append(server.url)
    bad = [url for name, url in urls.items() if name not in ("pictures", "silent")]
    return good, bad, urls["silent"]


def serve(pipe: Connection) -> None:
    """Run good and bad servers: send their addresses through the pipe, then wait for a message to end."""
    with ExitStack() as stack:
        faulty = stack.enter_context(FaultyServer())
        faulty.files = {"/cut": bytes(100_000)}
        faulty.faults["/cut"] = ["cut"] * 10_000
        noise = random.Random(0).randbytes(100_000)
        pipe.send(
            {
                "pictures": stack.enter_context(http_server(send_pictures)),
                "refused": f"rtsp://127.0.0.1:{_free_port()}/live",
                "not there": f"{faulty.url}/nothing",
                "cut off": f"{faulty.url}/cut",
                "closing": f"rtsp://127.0.0.1:{stack.enter_context(answering(b''))}/live",
                "garbage": f"http://127.0.0.1:{stack.enter_context(answering(noise))}/",
                "garbage too": f"tcp://127.0.0.1:{stack.enter_context(answering(noise))}",
                "silent": f"rtsp://127.0.0.1:{stack.enter_context(answering(None))}/live",
            }
        )
        pipe.recv()


@contextmanager
def answering(answer: bytes | None) -> Iterator[int]:
    """The port of a server that sends these bytes to each client and hangs up; None: it only listens."""
    held: list[socket.socket] = []

    def accept(listener: socket.socket) -> None:
        while True:
            try:
                caller, _ = listener.accept()
                if answer is None:
                    held.append(caller)
                    del held[:-AT_ONCE]
                    continue
                with caller:
                    caller.sendall(answer)
            except ConnectionError:  # the client hung up first
                continue
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
