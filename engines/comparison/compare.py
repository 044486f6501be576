"""Hold an engine against a reference on the same inputs: its numbers, and what they come to in px."""

from __future__ import annotations

import dataclasses
import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engines.assets.model_files import is_checkpoint, runnable
from engines.assets.store import cached_path, is_cached
from engines.backends.base import Engine
from engines.backends.onnxruntime import OnnxEngine
from engines.codecs.base import DetectionRequest, DetectorCodec, TopDownCodec
from engines.comparison.example_inputs import Examples, examples
from engines.contracts.contract import Contract
from engines.contracts.onnx_metadata import has_random_weights, is_quantised, quantised_from
from engines.errors import EngineError
from engines.home import cache_home

Outputs = dict[str, np.ndarray]  # by role

BEST = 50  # detections of a picture that are compared, however weak: there may be none above the threshold
WEAKEST = 1e-3
MAY_BE_LOST = 0.05  # of the keypoints or boxes: as much as the 95th percentile leaves out


class Error(NamedTuple):
    """How far numbers are apart."""

    max: float
    p95: float
    of: int  # so many numbers

    @classmethod
    def between(cls, distances: np.ndarray) -> Error:
        """Of absolute differences of any shape; zero where there are none."""
        if not distances.size:
            return cls(0.0, 0.0, 0)
        return cls(float(distances.max()), float(np.percentile(distances, 95)), distances.size)


class Meaning(NamedTuple):
    """The differences in what a codec reads."""

    what: str  # keypoints, boxes
    lost: int  # which the reference has, and the engine has not
    shift_px: Error  # px of the input
    score: Error


@dataclasses.dataclass(frozen=True)
class Report:
    """A comparison, and its verdict by the contract's tolerance."""

    model: str
    engine: str
    reference: str
    compared_on: str
    outputs: dict[str, Error]  # by tensor, in its own units
    meaning: Meaning | None  # None: outputs alone were compared
    beyond: list[str]  # what exceeds the tolerance

    @property
    def passed(self) -> bool:
        """Whether all is within the tolerance."""
        return not self.beyond

    def lines(self) -> list[str]:
        """For people."""
        told = [f"{self.model}: {self.engine} against {self.reference}, on {self.compared_on}"]
        told += [f"{name}: largest error {e.max:.2g}, p95 {e.p95:.2g}" for name, e in self.outputs.items()]
        if self.meaning:
            what, lost, shift, score = self.meaning
            told.append(
                f"{shift.of} {what}: shift p95 {shift.p95:.3g} px, largest {shift.max:.3g} px; "
                f"score p95 {score.p95:.2g}; {lost} lost"
            )
        return [*told, "within tolerance" if self.passed else f"beyond tolerance: {', '.join(self.beyond)}"]

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        told = dataclasses.asdict(self)
        told["outputs"] = {name: error._asdict() for name, error in self.outputs.items()}
        if self.meaning:
            parts = {"shift_px": self.meaning.shift_px._asdict(), "score": self.meaning.score._asdict()}
            told["meaning"] = {**self.meaning._asdict(), **parts}
        return {**told, "passed": self.passed}


def verify_engine(
    contract: Contract, engine: Engine, path: Path, *, name: str = "engine", threads: int = 1
) -> Report:
    """Compare an engine that runs, or was compiled from, `path` with the FP32 reference.

    That is PyTorch with the model's checkpoint, where both are here; else ONNX Runtime on the CPU, which runs
    the graph as it is written.

    Raises:
        EngineError: there is no reference for such a file.
    """
    reference, told = _reference(contract, path, threads)
    try:
        trained = not has_random_weights(path)
        return compare_engines(contract, reference, engine, reference_name=told, name=name, trained=trained)
    finally:
        reference.close()


def compare_engines(
    contract: Contract,
    reference: Engine,
    engine: Engine,
    *,
    reference_name: str = "PyTorch",
    name: str = "ONNX Runtime",
    trained: bool = True,
    on: Examples | None = None,
) -> Report:
    """Run both on the same examples (`on`, if given), and judge the differences by the contract's tolerance.

    Of a model that was not `trained` the outputs alone are judged, as any noise moves its peaks and boxes.

    Raises:
        EngineError: their outputs have different shapes.
    """
    batch, origin = on or examples(contract)
    expected, found = (
        {role: outputs[output.name] for role, output in contract.outputs.items()}
        for outputs in (one.run({contract.input.name: batch}) for one in (reference, engine))
    )
    errors = _errors(contract, expected, found, (reference_name, name))
    meaning = _meaning(contract, expected, found) if trained else None
    beyond = _beyond(contract, meaning, expected, found)
    return Report(contract.name, name, reference_name, origin, errors, meaning, beyond)


def _reference(contract: Contract, path: Path, threads: int) -> tuple[Engine, str]:
    has_checkpoint = is_checkpoint(contract) and is_cached(contract.asset) and not has_random_weights(path)
    if has_checkpoint and find_spec("torch"):
        from engines.backends.pytorch import TorchEngine

        checkpoint = cached_path(contract.asset)
        return TorchEngine(contract, checkpoint, threads, device="cpu"), "PyTorch"
    if path.suffix != ".onnx":
        raise EngineError(
            f"{contract.name}: nothing but LiteRT runs {path.name}, so there is no reference for it; "
            "verify is for ONNX files and what is made of them"
        )
    if is_quantised(path):
        path = _unquantised(contract, path)
    return OnnxEngine(path, threads, optimised=False), "ONNX Runtime without optimisation"


def _unquantised(contract: Contract, path: Path) -> Path:
    """The FP32 file that `path` was made of: beside it, or in the cache; if it names none, the model's.

    Raises:
        EngineError: that file is not here any more.
    """
    made_of = quantised_from(path)
    if made_of is None:
        return runnable(contract)
    name, sha256 = made_of["file"], made_of["source"]
    places = [path.parent / name, cache_home() / "onnx" / name, cached_path(contract.asset)]
    for place in places:
        if place.is_file() and hashlib.sha256(place.read_bytes()).hexdigest() == sha256:
            return place
    raise EngineError(
        f"{path.name} was made of {name} (SHA-256 {sha256[:8]}…), which is neither beside it nor in the "
        "cache; put it beside it, or pull or export the model again"
    )


def _errors(
    contract: Contract, expected: Outputs, found: Outputs, names: tuple[str, str]
) -> dict[str, Error]:
    """Errors of the raw outputs; none of those that vary in length, where the lengths differ."""
    errors = {}
    for role, output in contract.outputs.items():
        one, other = expected[role], found[role]
        if one.shape == other.shape:
            errors[output.name] = Error.between(np.abs(one.astype(np.float64) - other))
        elif -1 not in output.shape[1:]:
            raise EngineError(
                f"{contract.name}: {output.name!r} is {one.shape} by {names[0]}, {other.shape} by "
                f"{names[1]}; they are not the same model"
            )
    return errors


def _meaning(contract: Contract, expected: Outputs, found: Outputs) -> Meaning | None:
    codec = contract.codec
    if isinstance(codec, TopDownCodec):
        return _keypoints(codec, contract.input.size, expected, found)
    if isinstance(codec, DetectorCodec):
        return _boxes(codec, contract, expected, found)
    return None


def _keypoints(
    codec: TopDownCodec, input_size: tuple[int, int], expected: Outputs, found: Outputs
) -> Meaning:
    points, scores = codec.finish(codec.reduce(expected), input_size)  # (N, K, 2), (N, K)
    other_points, other_scores = codec.finish(codec.reduce(found), input_size)
    there = np.isfinite(points).all(axis=-1)
    both = there & np.isfinite(other_points).all(axis=-1)
    shifts = np.linalg.norm(points[both] - other_points[both], axis=-1)
    lost = int((there & ~both).sum())
    return Meaning("keypoints", lost, Error.between(shifts), _score_error(scores[both], other_scores[both]))


def _boxes(codec: DetectorCodec, contract: Contract, expected: Outputs, found: Outputs) -> Meaning:
    """Each of the reference's best boxes against the nearest one of its class; nothing is suppressed."""
    sizes = contract.sizes()
    lost, shifts, scores, other_scores = 0, [], [], []
    ours = codec.finish(codec.reduce(expected, DetectionRequest(sizes, WEAKEST, 1.0)), 1.0)
    theirs = codec.finish(codec.reduce(found, DetectionRequest(sizes, WEAKEST / 2, 1.0)), 1.0)
    for one, other in zip(ours, theirs, strict=True):
        for box, score, kind in zip(one.boxes[:BEST], one.scores[:BEST], one.classes[:BEST], strict=True):
            same = np.flatnonzero(other.classes == kind)
            if not len(same):
                lost += 1
                continue
            distances = np.abs(other.boxes[same] - box).max(axis=1)
            nearest = distances.argmin()
            shifts.append(distances[nearest])
            scores.append(score)
            other_scores.append(other.scores[same[nearest]])
    return Meaning(
        "boxes", lost, Error.between(np.array(shifts)), _score_error(np.array(scores), np.array(other_scores))
    )


def _score_error(scores: np.ndarray, others: np.ndarray) -> Error:
    """Absolute for scores up to 1, in proportion for models whose scores are larger."""
    return Error.between(np.abs(scores - others) / max(1.0, np.abs(scores).max(initial=0)))


def _relative(expected: np.ndarray, found: np.ndarray) -> float:
    """The size of all errors together, as a fraction of that of all values."""
    if expected.shape != found.shape:
        return 1.0
    size = float(np.linalg.norm(expected.astype(np.float64)))
    error = float(np.linalg.norm(expected.astype(np.float64) - found))
    return error / size if size else error


def _beyond(contract: Contract, meaning: Meaning | None, expected: Outputs, found: Outputs) -> list[str]:
    """What exceeds the tolerance; where nothing can be read from the outputs, their own errors decide."""
    limits = contract.tolerance
    if meaning is None or not meaning.shift_px.of:
        judged = {
            f"{output.name}: relative error": (_relative(expected[role], found[role]), limits.score)
            for role, output in contract.outputs.items()
        }
    else:
        shift_limit = limits.keypoint_px if meaning.what == "keypoints" else limits.box_px
        judged = {
            f"{meaning.what}: shift p95 in px": (meaning.shift_px.p95, shift_limit),
            f"{meaning.what}: score p95": (meaning.score.p95, limits.score),
        }
    if meaning:
        judged[f"{meaning.what} lost"] = (
            meaning.lost,
            MAY_BE_LOST * (meaning.lost + meaning.shift_px.of),
        )
    # Written so that what is not a number is beyond, too.
    return [
        f"{what} {is_:.3g}, limit {limit:.3g}" for what, (is_, limit) in judged.items() if not is_ <= limit
    ]
