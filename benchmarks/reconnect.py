"""Kill and restart a real RTSP server many times: how long until the camera is back, and what stays behind.

    python benchmarks/reconnect.py [--rounds 20] [--stalls 3] [--stall-s 2]

Prints a line for each round, and a summary. Exit code 1 if a target is missed: frames within 2 s after the
server is back, no additional threads, flat memory (after the last round at most 4 MB or 2 % more than after
the first quarter), and a stalled server noticed after at most `stall-s` + 1 s. Needs GStreamer's RTSP server
for the system's Python.
"""

from __future__ import annotations

import argparse
import gc
import logging
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.support.videos.live_reader import LiveReader, until
from tests.support.videos.rtsp_fixtures import SIZES, RtspServer, make_clip, unavailable

BACK_S, NOTICED_S = 2.0, 1.0
GROWTH, GROWTH_MB = 0.02, 4.0


def resident_mb() -> float:
    gc.collect()
    fields = Path("/proc/self/status").read_text().split("VmRSS:")[1]
    return int(fields.split()[0]) / 1024


def killed(server: RtspServer, reader: LiveReader, away_s: float) -> float:
    """Kill and restart the server; seconds from when it is ready until the first frame."""
    outages = reader.event_kinds().count("back")
    server.kill()
    until(lambda: reader.event_kinds().count("lost") > outages, "loss", reader)
    time.sleep(away_s)
    server.start()
    ready_s = time.monotonic()
    until(lambda: reader.event_kinds().count("back") > outages, "return", reader, within_s=60)
    return time.monotonic() - ready_s


def stalled(server: RtspServer, reader: LiveReader) -> float:
    """Pause the server; seconds until the loss is noticed."""
    outages = reader.event_kinds().count("back")
    server.pause()
    paused_s = time.monotonic()
    until(lambda: reader.event_kinds().count("lost") > outages, "loss", reader, within_s=60)
    noticed_s = time.monotonic() - paused_s
    server.resume()
    until(lambda: reader.event_kinds().count("back") > outages, "return", reader, within_s=60)
    return noticed_s


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--stalls", type=int, default=3)
    parser.add_argument("--stall-s", type=float, default=2.0)
    args = parser.parse_args()
    if reason := unavailable():
        sys.exit(f"no RTSP server here: {reason}")
    logging.disable(logging.WARNING)

    with tempfile.TemporaryDirectory() as folder:
        server = RtspServer(
            {name: make_clip(Path(folder) / f"{name}.h264", size) for name, size in SIZES.items()}
        )
        server.start()
        backs_s, memory_mb, threads = [], [], []
        try:
            with LiveReader(server.url, stall_s=args.stall_s, keep=False) as reader:
                reader.wait_for_packets(25)
                for round in range(args.rounds):
                    # Outages so short and so long that all pauses between attempts occur.
                    backs_s.append(killed(server, reader, away_s=round % 5))
                    reader.wait_for_packets(25)
                    memory_mb.append(resident_mb())
                    threads.append(threading.active_count())
                    print(
                        f"{round + 1:3}  away {round % 5} s, back {backs_s[-1]:.2f} s after the server; "
                        f"{memory_mb[-1]:.1f} MB, {threads[-1]} threads",
                        flush=True,
                    )
                noticed_s = []
                for _ in range(args.stalls):
                    noticed_s.append(stalled(server, reader))
                    reader.wait_for_packets(25)
                    print(
                        f"     stalled: noticed after {noticed_s[-1]:.2f} s of {args.stall_s:g}", flush=True
                    )
        finally:
            server.kill()

    first_mb = memory_mb[len(memory_mb) // 4]
    grown_mb = memory_mb[-1] - first_mb
    ends = {
        f"back within {BACK_S:g} s": max(backs_s) <= BACK_S,
        "memory flat": grown_mb <= GROWTH_MB or grown_mb <= GROWTH * first_mb,
        "no thread leaked": threads[-1] <= threads[0],
        "stalls noticed": all(s <= args.stall_s + NOTICED_S for s in noticed_s),
    }
    print(
        f"back after {statistics.median(backs_s):.2f} s (median), {max(backs_s):.2f} s at most; memory "
        f"{grown_mb:+.1f} MB since round {len(memory_mb) // 4 + 1}; threads {threads[0]} → {threads[-1]}; "
        f"stalls noticed after {max(noticed_s, default=0):.2f} s at most"
    )
    for end, met in ends.items():
        print(f"  {'met   ' if met else 'MISSED'}  {end}")
    return 0 if all(ends.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
