"""Whether the numbers of a contract agree with each other, before any model is at hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engines.contracts.skeletons import load_skeleton

if TYPE_CHECKING:
    from engines.contracts.contract import Contract

VALUES_PER_LANDMARK = 5  # of BlazePose: x, y, z, visibility, presence

Shape = tuple[int, ...]


def contradiction(contract: Contract) -> str | None:
    """What in a contract contradicts what, with both values; None if all of it agrees.

    Raises:
        ContractError: there is no such skeleton.
    """
    if contract.task != "detect" and contract.skeleton is None:
        return f"{contract.name}: a pose model needs a skeleton; name one in the contract"
    if problem := _heatmap_stride(contract) or _landmarks(contract):
        return f"{contract.name}: {problem}"
    for role, (shape, why) in expected_shapes(contract).items():
        output = contract.outputs.get(role)
        if output is None:
            return (
                f"{contract.name}: codec {contract.codec.kind!r} reads output {role!r}, outputs has only "
                f"{sorted(contract.outputs)}; add it"
            )
        if not fits(shape, output.shape):
            return (
                f"{contract.name}: output {output.name!r} is {describe_shape(output.shape)}, but {why} "
                f"make {describe_shape(shape)}; correct the one that is wrong"
            )
    return None


def expected_shapes(contract: Contract) -> dict[str, tuple[Shape, str]]:
    """By role: the shape of the output that follows from input, codec, skeleton and labels, and why.

    Sizes that do not follow from them are -1.
    """
    codec = contract.codec
    width, height = contract.input.size
    keypoints = len(load_skeleton(contract.skeleton).keypoints) if contract.skeleton else 0
    labels = len(contract.labels or ())
    points = f"{keypoints} keypoints of {contract.skeleton}"
    if codec.kind == "simcc":
        why = f"{width}x{height} px at {codec.split_ratio:g} bins a px and {points}"
        return {
            "simcc_x": ((-1, keypoints, round(width * codec.split_ratio)), why),
            "simcc_y": ((-1, keypoints, round(height * codec.split_ratio)), why),
        }
    if codec.kind == "heatmap":
        why = f"heatmaps of {codec.size[0]}x{codec.size[1]} and {points}"
        return {"heatmaps": ((-1, keypoints, codec.size[1], codec.size[0]), why)}
    if codec.kind == "yolox":
        cells = sum((width // stride) * (height // stride) for stride in codec.strides)
        why = f"{width}x{height} px in strides of {codec.strides} and {labels} labels"
        return {"predictions": ((-1, cells, 5 + labels), why)}
    if codec.kind == "yolo":
        return {"predictions": ((-1, 4 + labels, -1), f"{labels} labels")}
    if codec.kind == "yolo-pose":
        values = codec.values_per_keypoint
        why = f"{labels} labels and {values} values for {points}"
        return {"predictions": ((-1, 4 + labels + keypoints * values, -1), why)}
    if codec.kind == "rtmdet":
        return {"boxes": ((-1, -1, 5), "boxes with scores"), "labels": ((-1, -1), "labels")}
    if codec.kind == "blazepose-landmarks":
        why = f"{codec.landmarks} landmarks of {VALUES_PER_LANDMARK} values"
        return {"landmarks": ((-1, codec.landmarks * VALUES_PER_LANDMARK), why)}
    return {}


def fits(expected: Sequence[int], found: Sequence[int]) -> bool:
    """Whether two shapes can be the same; -1 on either side is any size."""
    return len(expected) == len(found) and all(
        e == f or -1 in (e, f) for e, f in zip(expected, found, strict=True)
    )


def describe_shape(shape: Sequence[int]) -> str:
    """A shape as people write it; ? is any size."""
    return "x".join("?" if n == -1 else str(n) for n in shape)


def _heatmap_stride(contract: Contract) -> str | None:
    codec = contract.codec
    if codec.kind != "heatmap":
        return None
    strides = [side / cells for side, cells in zip(contract.input.size, codec.size, strict=True)]
    if strides[0] == strides[1] and strides[0].is_integer():
        return None
    return (
        f"heatmaps of {codec.size[0]}x{codec.size[1]} on an input of {contract.input.size[0]}x"
        f"{contract.input.size[1]} have strides of {strides[0]:g} and {strides[1]:g} px, expected the same "
        "whole number; correct codec.size or input.size"
    )


def _landmarks(contract: Contract) -> str | None:
    """Of BlazePose: the skeleton's keypoints must be the rows in front of the auxiliary ones."""
    codec = contract.codec
    if codec.kind != "blazepose-landmarks" or contract.skeleton is None:
        return None
    keypoints = len(load_skeleton(contract.skeleton).keypoints)
    if keypoints == min(codec.auxiliary):
        return None
    return (
        f"skeleton {contract.skeleton!r} has {keypoints} keypoints, the model has {min(codec.auxiliary)} in "
        "front of its auxiliary ones; name the skeleton it was trained with"
    )
