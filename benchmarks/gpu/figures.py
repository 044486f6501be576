"""The first figures of a GPU, without TensorRT: whole graphs on PyTorch by number of streams, crops by batch.

    python benchmarks/gpu/figures.py [--carried FOLDER] [--out FOLDER] [--minutes 4] [--commit HASH]
                                     [--dry-run]

Streams: files of 1080p H.264 go through decode, detect (RTMDet-nano), track and pose (RTMPose-m in FP16) as
fast as they can, with plain PyTorch and with torch.compile. The table compares this with decoding alone on as
many streams and with the two models alone at their best batch. Then compute-sanitizer's memcheck and
racecheck run the tests of our own kernels. Weights are random, and so are the boxes: see bench.py, which
measures the fastest backend that is installed and is for people who have a GPU of their own.

Parts, JSON and log are as first.py's, and so are --carried and --dry-run. Exit code 1 if a part failed.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import first

PLAIN_STREAMS, COMPILED_STREAMS = [1, 2, 4, 8, 16, 32, 64], [1, 8, 32, 64]
# The largest first: each size is compiled separately, and if the time runs out, the small ones are missing.
BATCHES, COMPILED_BATCHES = [1, 2, 4, 8, 16, 32, 64], [64, 8, 1]
STREAMS_S, DECODED_S, ALONE_S = 2.0, 0.7, 0.5
ALONE, COMPILED_ALONE = "crops alone", "crops alone, torch.compile"
DETECTOR_ALONE, DECODING_ALONE = "detector alone", "decoding alone"
STREAMS, COMPILED = "streams", "streams, torch.compile"
SANITIZERS = ("memcheck", "racecheck")
PARTS = (ALONE, DETECTOR_ALONE, DECODING_ALONE, STREAMS, COMPILED_ALONE, COMPILED, *SANITIZERS)


def main() -> int:
    given = first.started(__doc__ or "", minutes=4.0)
    from measuring import tables
    from measuring.parts import Report

    report = Report("figures", given, dry_run=given.dry_run, target=tables.TARGET)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(report, first.place_of(given, Path(folder)))
    for name in SANITIZERS:
        sanitize(report, name)
    tables.show(rows, (1920, 1080))
    return report.close()


def measure(report: Any, place: Any) -> list[dict[str, Any]]:
    """All figures as rows for the tables of bench.py, the most important first."""
    from bench import add_bounds
    from measuring.networks import alone, by_compiler
    from measuring.streams import decoded, measured
    from measuring.torch_networks import COMPILED as BY_COMPILER
    from measuring.torch_networks import HALF, PLAIN
    from steps.whole import load

    dry, device = place.dry, place.device
    batches, counts = (BATCHES[:1], PLAIN_STREAMS[:1]) if dry else (BATCHES, PLAIN_STREAMS)
    plain = load(place)
    pose, detector = plain.pose, plain.detector
    rows: list[dict[str, Any]] = []

    def add(name: str, labels: dict[str, Any], function: Any, *arguments: Any, within_s: float) -> float:
        """Run a part; its highest rate of items."""
        found = report.run(name, function, *arguments, within_s=within_s)
        rows.extend({**labels, **row} for row in found)
        if not found:
            rows.append({**labels, "why": report.parts[-1]["why"]})
        return max((row.get("items_per_s", 0.0) for row in found), default=0.0)

    posed = add(ALONE, {"kind": "alone", "model": "pose", "backend": HALF},
                alone, pose, device, batches, ALONE_S, within_s=25)  # fmt: skip
    found = add(DETECTOR_ALONE, {"kind": "alone", "model": "detector", "backend": PLAIN},
                alone, detector, device, batches[-2:], ALONE_S, within_s=20)  # fmt: skip
    add(DECODING_ALONE, {"kind": "decode"}, decoded, place.long_clip, device, counts, DECODED_S, within_s=25)
    add(STREAMS, {"kind": "streams", "backend": HALF},
        measured, [plain], counts, STREAMS_S, False, within_s=70)  # fmt: skip
    add_bounds(rows, found, posed, persons=1)
    sizes = [1] if dry else COMPILED_BATCHES
    posed = add(COMPILED_ALONE, {"kind": "alone", "model": "pose", "backend": BY_COMPILER},
                by_compiler, pose, device, sizes, ALONE_S, within_s=50)  # fmt: skip
    compiled = load(place, detector=BY_COMPILER, pose=BY_COMPILER)
    before = len(rows)
    add(COMPILED, {"kind": "streams", "backend": BY_COMPILER},
        measured, [compiled], counts if dry else COMPILED_STREAMS, STREAMS_S, False, within_s=70)  # fmt: skip
    decoding = [row for row in rows if row["kind"] == "decode"]
    # The detector alone is not compiled once more, so its plain rate stands in, and the share may exceed 1.
    add_bounds([*decoding, *rows[before:]], found, posed, persons=1)
    return rows


def sanitize(report: Any, name: str) -> None:
    """Run the kernels' own tests under one of compute-sanitizer's tools."""
    from measuring.parts import FAILED, NOT_RUN, OK
    from run_tests import sanitize as run

    outcome = run(name, report.left(at_most=60), report.log)
    state = FAILED if outcome.failed else OK if outcome.passed else NOT_RUN
    found = {"passed": outcome.passed, "failed": outcome.failed, "found": outcome.note}
    report.add(name, state, "" if state == OK else outcome.note, [found], outcome.seconds)


if __name__ == "__main__":
    sys.exit(main())
