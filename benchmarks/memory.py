"""Memory over a long run: repeat the sample clip, and measure the growth after the first 1,000 frames.

    python benchmarks/memory.py [--frames 10000] [--json FILE] [CLIP]

Linux only: it reads /proc. The target is less than 20 MB of growth.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import harness
import numpy as np

from operators.graphs.graph_files import load_graph, with_sinks
from pipeline.run import Run

WARM_FRAMES, TARGET_MB = 1000, 20


def resident_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def main() -> int:
    parser = harness.parser(__doc__ or "")
    parser.add_argument("clip", nargs="?", type=Path, help="default: the sample clip")
    parser.add_argument("--frames", type=int, default=10_000, help="default: 10,000")
    given = parser.parse_args()
    clip = given.clip or harness.sample_clip()
    with tempfile.TemporaryDirectory() as folder:
        changes = {"decode.loop": 0, "decode.max_frames": given.frames}
        graph = with_sinks(load_graph("human-lite", changes), {"jsonl_sink": {"dir": folder}})
        run = Run(graph, {"clip": str(clip)})
        run.start()
        samples: list[tuple[int, float]] = []  # frames done, MB
        while not run.wait(0.5):
            samples.append((run.stats().finished, resident_mb()))
        stats = run.finish()
    samples.append((stats.finished, resident_mb()))
    warm = [mb for done, mb in samples if done >= min(WARM_FRAMES, stats.finished)]
    rows = []
    for step in range(WARM_FRAMES, given.frames + 1, max(given.frames // 10, 1)):
        done, mb = next(sample for sample in samples if sample[0] >= min(step, stats.finished))
        rows.append({"frames": done, "memory_mb": round(mb, 1)})
        print(f"{done:7} frames {mb:8.1f} MB")
    growth = max(warm) - warm[0]
    tenth = max(len(warm) // 10, 1)
    drift = float(np.median(warm[-tenth:]) - np.median(warm[:tenth]))
    met = growth < TARGET_MB
    print(f"{stats.finished} frames: at most {growth:.1f} MB above frame {WARM_FRAMES}, last tenth against "
          f"first {drift:+.1f} MB; {'met' if met else 'MISSED'}: less than {TARGET_MB} MB")  # fmt: skip
    harness.write(
        given.json,
        harness.result(
            rows, clip=clip.name, growth_mb=round(growth, 1), drift_mb=round(drift, 1),
            target_mb=TARGET_MB, met=met,
        ),
    )  # fmt: skip
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
