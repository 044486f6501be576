"""Compare an engine with a reference on the same inputs: raw outputs, and keypoints or boxes in px."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from engines.backends.base import Engine
from engines.codecs.base import DetectionRequest, DetectorCodec, TopDownCodec
from engines.comparison.example_inputs import Examples, examples
from engines.contracts.contract import Contract
from engines.errors import EngineError

Outputs = dict[str, np.ndarray]  # by role

BEST = 50  # detections compared in each picture, even weak ones: there may be none above the threshold
WEAKEST = 1e-3
MAY_BE_LOST = 0.05  # share of the keypoints or boxes: the same as the 95th percentile ignores


class Error(NamedTuple):
    """The errors of many numbers."""

    max: float
    p95: float
    of: int  # how many numbers

    @classmethod
    def between(cls, distances: np.ndarray) -> Error:
        """From absolute differences of any shape; zero if there are none."""
        if not distances.size:
            return cls(0.0, 0.0, 0)
        return cls(float(distances.max()), float(np.percentile(distances, 95)), distances.size)


class DecodedErrors(NamedTuple):
    """The errors of what the codec reads from the outputs."""

    what: str  # keypoints, boxes
    lost: int  # those that the reference has and the engine has not
    shift_px: Error  # px of the input
    score: Error


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The errors of an engine, and the verdict by the contract's tolerance."""

    model: str
    engine: str
    reference: str
    compared_on: str
    outputs: dict[str, Error]  # by tensor, in its own units
    meaning: DecodedErrors | None  # None if only the raw outputs were compared
    beyond: list[str]  # every limit that is exceeded, with value and limit

    @property
    def passed(self) -> bool:
        """Whether every error is within the tolerance."""
        return not self.beyond

    def lines(self) -> list[str]:
        """The result as lines of text."""
        lines = [f"{self.model}: {self.engine} against {self.reference}, on {self.compared_on}"]
        lines += [f"{name}: largest error {e.max:.2g}, p95 {e.p95:.2g}" for name, e in self.outputs.items()]
        if self.meaning:
            what, lost, shift, score = self.meaning
            lines.append(
                f"{shift.of} {what}: shift p95 {shift.p95:.3g} px, largest {shift.max:.3g} px; "
                f"score p95 {score.p95:.2g}; {lost} lost"
            )
        return [*lines, "within tolerance" if self.passed else f"beyond tolerance: {', '.join(self.beyond)}"]

    def as_dict(self) -> dict[str, Any]:
        """The result for JSON."""
        result = dataclasses.asdict(self)
        result["outputs"] = {name: error._asdict() for name, error in self.outputs.items()}
        if self.meaning:
            parts = {"shift_px": self.meaning.shift_px._asdict(), "score": self.meaning.score._asdict()}
            result["meaning"] = {**self.meaning._asdict(), **parts}
        return {**result, "passed": self.passed}


def compare_engines(
    contract: Contract,
    reference: Engine,
    engine: Engine,
    *,
    reference_name: str = "PyTorch",
    name: str = "ONNX Runtime",
    trained: bool = True,
    on: Examples | None = None,
) -> Comparison:
    """Run both on the same inputs, and judge the differences by the contract's tolerance.

    Args:
        contract: of the model.
        reference: the engine to compare with.
        engine: the engine to judge.
        reference_name: for messages.
        name: of `engine`, for messages.
        trained: False for random weights. Then only the raw outputs are judged, since any noise moves the
            peaks and boxes of such a model.
        on: the inputs; None for `examples`.

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
    return Comparison(contract.name, name, reference_name, origin, errors, meaning, beyond)


def _errors(
    contract: Contract, expected: Outputs, found: Outputs, names: tuple[str, str]
) -> dict[str, Error]:
    """Errors of the raw outputs; an output of varying length is left out if the lengths differ."""
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


def _meaning(contract: Contract, expected: Outputs, found: Outputs) -> DecodedErrors | None:
    codec = contract.codec
    if isinstance(codec, TopDownCodec):
        return _keypoints(codec, contract.input.size, expected, found)
    if isinstance(codec, DetectorCodec):
        return _boxes(codec, contract, expected, found)
    return None


def _keypoints(
    codec: TopDownCodec, input_size: tuple[int, int], expected: Outputs, found: Outputs
) -> DecodedErrors:
    points, scores = codec.finish(codec.reduce(expected), input_size)  # (N, K, 2), (N, K)
    other_points, other_scores = codec.finish(codec.reduce(found), input_size)
    there = np.isfinite(points).all(axis=-1)
    both = there & np.isfinite(other_points).all(axis=-1)
    shifts = np.linalg.norm(points[both] - other_points[both], axis=-1)
    lost = int((there & ~both).sum())
    return DecodedErrors(
        "keypoints", lost, Error.between(shifts), _score_error(scores[both], other_scores[both])
    )


def _boxes(codec: DetectorCodec, contract: Contract, expected: Outputs, found: Outputs) -> DecodedErrors:
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
    return DecodedErrors(
        "boxes", lost, Error.between(np.array(shifts)), _score_error(np.array(scores), np.array(other_scores))
    )


def _score_error(scores: np.ndarray, others: np.ndarray) -> Error:
    """Absolute errors for scores up to 1; relative to the largest for models whose scores are larger."""
    return Error.between(np.abs(scores - others) / max(1.0, np.abs(scores).max(initial=0)))


def _relative(expected: np.ndarray, found: np.ndarray) -> float:
    """The norm of the errors as a fraction of the norm of the expected values."""
    if expected.shape != found.shape:
        return 1.0
    size = float(np.linalg.norm(expected.astype(np.float64)))
    error = float(np.linalg.norm(expected.astype(np.float64) - found))
    return error / size if size else error


def _beyond(
    contract: Contract, meaning: DecodedErrors | None, expected: Outputs, found: Outputs
) -> list[str]:
    """Every limit that is exceeded; if nothing was decoded, the errors of the raw outputs decide."""
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
    # `not <=`, so that NaN exceeds its limit, too.
    return [
        f"{what} {value:.3g}, limit {limit:.3g}"
        for what, (value, limit) in judged.items()
        if not value <= limit
    ]
