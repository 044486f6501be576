"""Memory over a long run: the sample clip played over and over; growth after the first 1,000 frames.

    python benchmarks/memory.py [--frames 10000] [CLIP]

Linux only: it reads /proc. The target is less than 20 MB of growth.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from peer import sample_clip

from operators.graphs import load_graph, with_sinks
from pipeline.run import Run

WARM_FRAMES, TARGET_MB = 1000, 20


def resident_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("clip", nargs="?", type=Path)
    parser.add_argument("--frames", type=int, default=10_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        changes = {"decode.loop": 0, "decode.max_frames": arguments.frames}
        graph = with_sinks(load_graph("human-lite", changes), {"jsonl_sink": {"dir": folder}})
        run = Run(graph, {"clip": str(arguments.clip or sample_clip())})
        run.start()
        samples: list[tuple[int, float]] = []  # frames done, MB
        while not run.wait(0.5):
            samples.append((run.stats().finished, resident_mb()))
        stats = run.finish()
    samples.append((stats.finished, resident_mb()))
    warm = [mb for done, mb in samples if done >= WARM_FRAMES]
    for step in range(WARM_FRAMES, arguments.frames + 1, max(arguments.frames // 10, 1)):
        done, mb = next(sample for sample in samples if sample[0] >= min(step, stats.finished))
        print(f"{done:7} frames {mb:8.1f} MB")
    growth = max(warm) - warm[0]
    tenth = max(len(warm) // 10, 1)
    drift = float(np.median(warm[-tenth:]) - np.median(warm[:tenth]))
    print(f"{stats.finished} frames: at most {growth:.1f} MB above frame {WARM_FRAMES}, last tenth against "
          f"first {drift:+.1f} MB; target: less than {TARGET_MB} MB")  # fmt: skip


if __name__ == "__main__":
    main()
