"""Against rtmlib: RTMDet-nano on every frame and RTMPose-m, the same two ONNX files for both."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from contests.contest import CORES, OURS, Contest, Side, count, decode_ms, model_ms, ours, shares
from contests.environment import Figures, peer_python, side_by_side
from engines.assets.store import fetch
from engines.contracts.contract import load_contract
from engines.contracts.onnx_metadata import has_random_weights
from engines.conversion.export import export_model
from engines.conversion.int8 import pays_here
from engines.verification.verify_model import verify_model
from operators.graphs.graph_files import load_graph
from pipeline.graph import Graph

NAME = "rtmlib"
GRAPH, DETECTOR, POSE, SEED = "human", "rtmdet-nano", "rtmpose-m-body8", 0
PROGRAM = "rtmlib_video.py"
AS_SHIPPED, TUNED = {1: 2.0, 4: 2.0}, {1: 1.2, 4: 1.2}  # streams: target
OF_BOUND = 0.9
CALIBRATION_IMAGES = 40
# Threads of a session (0: one a core), and whether they spin while they wait (1).
SHIPPED, WITHOUT_SPINNING, ONE_THREAD = (0, 1), (0, 0), (1, 0)


class Int8(NamedTuple):
    """The models in INT8, None where `engine verify` refuses it, and its verdicts."""

    detector: Path | None
    pose: Path | None
    verdicts: str


def rtmlib_python() -> Path:
    """The interpreter of an environment with rtmlib and our version of ONNX Runtime."""
    runtime = f"onnxruntime=={version('onnxruntime')}"
    return peer_python(f"rtmlib-{runtime.replace('==', '-')}", NAME, runtime)


def pose_file(given: Path | None) -> Path:
    """The given RTMPose-m; else one with random weights, exported with PyTorch on first use."""
    return given or export_model(load_contract(POSE), seed=SEED).path


def contest(clips: Sequence[Path], loops: int, pose: Path, int8: Int8) -> Contest:
    """Both detect on every frame and draw nothing; ours also tracks."""
    python, streams = rtmlib_python(), len(clips)

    def graph(detector: str | Path, estimator: Path) -> Graph:
        changes = {"detect.model": str(detector), "pose.model": str(estimator), "decode.loop": loops}
        return load_graph(GRAPH, changes)

    def their_side(setting: tuple[int, int], processes: int = 1) -> partial[Figures]:
        runs = [[*_models(pose), *setting, loops, *share] for share in shares(clips, processes)]
        return partial(side_by_side, python, PROGRAM, runs)

    in_fp32 = ours(graph(DETECTOR, pose), clips)
    in_int8 = ours(graph(int8.detector or DETECTOR, int8.pose or pose), clips)
    allowed = bool(int8.detector or int8.pose)
    threads = count(CORES, "thread")
    sides = [
        in_fp32,
        replace(in_int8, name=f"{OURS}, INT8", setting=int8.verdicts, run=in_int8.run if allowed else None),
        Side(
            "rtmlib",
            f"as shipped: clip after clip, 1 process, {threads} a session that spin while they wait",
            their_side(SHIPPED),
            AS_SHIPPED.get(streams),
        ),
        Side(
            "rtmlib tuned",
            f"session.intra_op.allow_spinning=0; clip after clip, 1 process, {threads} a session",
            their_side(WITHOUT_SPINNING),
            TUNED.get(streams),
        ),
    ]
    if (processes := min(streams, CORES)) > 1:
        sides.append(
            Side(
                "rtmlib side by side",
                f"{count(processes, 'process')} that divide the clips, 1 thread a session, no spinning",
                their_side(ONE_THREAD, processes),
            )
        )

    def alone() -> dict[str, float]:
        return {
            "decode": decode_ms(graph(DETECTOR, pose), clips),
            "detector": model_ms(load_contract(DETECTOR), backend="onnxruntime"),
            "pose": model_ms(load_contract(POSE), pose, backend="onnxruntime"),
        }

    weights = f"random weights (seed {SEED})" if has_random_weights(pose) else f"the weights of {pose.name}"
    return Contest(
        NAME,
        sides,
        alone,
        lambda persons: {"decode": 1, "detector": 1, "pose": persons},
        OF_BOUND,
        notes=[f"{DETECTOR} finds the persons; RTMPose-m has {weights}"],
    )


def in_int8(pose: Path, clips: Sequence[Path]) -> Int8:
    """Both models, quantised on the clips with `posestream engine quantise`, if `engine verify` allows it.

    Raises:
        SystemExit: a model could not be quantised.
    """
    allowed: dict[str, Path] = {}
    verdicts = []
    for name, model in {DETECTOR: DETECTOR, POSE: str(pose)}.items():
        file = _quantised(model, clips)
        report = verify_model(load_contract(name), path=file)
        if report.passed:
            allowed[name] = file
        verdict = "allows it" if report.passed else f"refuses it ({', '.join(report.beyond)})"
        verdicts.append(f"{name}: `engine verify` {verdict}")
    if pays_here() is False:
        verdicts.append("this processor has no VNNI, without which INT8 is no faster")
    return Int8(allowed.get(DETECTOR), allowed.get(POSE), "; ".join(verdicts))


def _quantised(model: str, clips: Sequence[Path]) -> Path:
    sources = [word for clip in dict.fromkeys(clips) for word in ("--calibration", str(clip))]
    command = ["engine", "quantise", model, *sources, "--images", str(CALIBRATION_IMAGES)]
    done = subprocess.run(
        [sys.executable, "-m", "tools.cli", *command], capture_output=True, text=True, check=False
    )
    file = Path((done.stdout.splitlines() or [""])[-1])
    # Not by the exit code: that is about a tolerance, on other inputs than `engine verify` uses.
    if not file.is_file():
        raise SystemExit((done.stderr.splitlines() or [f"{' '.join(command)}: no INT8 file"])[-1])
    return file


def _models(pose: Path) -> list[object]:
    detector, estimator = load_contract(DETECTOR), load_contract(POSE)
    return [fetch(detector.asset), *detector.input.size, pose, *estimator.input.size]
