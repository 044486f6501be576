"""INT8 from FP32: an ONNX graph with pairs of QuantizeLinear and DequantizeLinear, calibrated on pictures.

On processors with VNNI ONNX Runtime runs such graphs faster, on others not; TensorRT compiles them. Only
convolutions are quantised, with a scale a channel: in RTMPose-m they take nine tenths of the time. The first,
the last and the depthwise ones stay in FP32, which they need most. Still the smallest detectors (YOLOX-nano,
RTMDet-nano) are far beyond their tolerance afterwards: look at what `verify` says.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from engines.backends.onnxruntime import OnnxEngine
from engines.contract import Contract
from engines.errors import EngineError
from engines.export import require
from engines.geometry import crops, letterbox_matrix
from engines.metadata import EXPORT, read_notes, write_contract, write_metadata
from engines.prepared import exported_path, runnable
from engines.verify import Report, verify_engine

PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
ENOUGH = 200  # pictures of a folder; more change the ranges little
OPSET = 13  # the first that has a scale a channel
A_VIDEO = 50  # frames, evenly over its length


if TYPE_CHECKING:
    import onnx


class Quantised(NamedTuple):
    """An INT8 file, and how it compares with the FP32 model."""

    path: Path
    pictures: int
    report: Report


def quantise_model(contract: Contract, sources: Sequence[Path], out: Path | None = None) -> Quantised:
    """Write the INT8 version of a model to the cache, or to `out`.

    It is never run unless its path is given; the FP32 model stays what the model's name means.

    Args:
        contract: of a model that is ONNX, or was exported.
        sources: pictures, folders of them, or videos, of what the model will see: whole frames for a
            detector, instances cut out for a pose model.
        out: the file to write.

    Raises:
        AssetError, EngineError: as `runnable`; there are no pictures; or a library is missing.
    """
    require("onnx")
    import onnx

    graph = runnable(contract)
    if graph.suffix != ".onnx":
        raise EngineError(f"{contract.name}: {graph.name} is not ONNX, so it cannot be quantised")
    path = out or exported_path(contract).with_name(f"{contract.name}-int8.onnx")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".int8-") as folder:
        part = Path(folder) / path.name
        pictures = _quantise(graph, part, contract.input.name, _inputs(contract, sources))
        model = onnx.load(part)
        write_contract(model, contract)
        notes = {**read_notes(graph), "precision": "int8", "calibrated_on": f"{pictures} pictures"}
        write_metadata(model, EXPORT, json.dumps(notes))
        onnx.save(model, part)
        report = verify_engine(contract, OnnxEngine(part), part, name="int8")
        part.replace(path)
    return Quantised(path, pictures, report)


def _quantise(graph: Path, out: Path, name: str, inputs: Iterator[np.ndarray]) -> int:
    """Write `graph` in INT8 to `out`, calibrated on what its input `name` is fed; gives how many inputs."""
    import onnx
    import onnx.version_converter
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # a base that is known only here
        count = 0

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(inputs, None)
            self.count += batch is not None
            return None if batch is None else {name: batch}

    model, reader = onnx.load(graph), Reader()
    if model.opset_import[0].version < OPSET:
        model = onnx.version_converter.convert_version(model, OPSET)
    quant_pre_process(model, out, skip_symbolic_shape=True, skip_optimization=True)
    quantize_static(
        out,
        out,
        reader,
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv"],
        nodes_to_exclude=_sensitive(onnx.load(out).graph),
        extra_options={"ActivationSymmetric": True},  # TensorRT knows no zero points
    )
    return reader.count


def _sensitive(graph: onnx.GraphProto) -> list[str]:
    """The convolutions that see the picture, that are behind all others, or have one filter a channel."""
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    depthwise = [
        node for node in convolutions if any(it.name == "group" and it.i > 1 for it in node.attribute)
    ]
    before, behind = {graph.input[0].name}, {output.name for output in graph.output}
    first, last = [], []
    for node in graph.node:  # which are sorted by what they need
        if before.intersection(node.input):
            first += [node] if node.op_type == "Conv" else []
            before.update(node.output if node.op_type != "Conv" else [])
    for node in reversed(graph.node):
        if behind.intersection(node.output):
            last += [node] if node.op_type == "Conv" else []
            behind.update(node.input if node.op_type != "Conv" else [])
    return sorted({node.name for node in [*depthwise, *first, *last]})


def _inputs(contract: Contract, sources: Sequence[Path]) -> Iterator[np.ndarray]:
    """(1, 3, H, W): the pictures, letterboxed."""
    found = False
    for file in _files(sources):
        for picture in _read(file):
            found = True
            matrix = letterbox_matrix((picture.shape[1], picture.shape[0]), contract.input)
            yield crops([picture], np.zeros(1, np.int64), matrix[None], contract.input)
    if not found:
        raise EngineError(
            f"no picture or video in {', '.join(map(str, sources)) or 'nothing'}; calibration needs some of "
            "what the model will see: --calibration FOLDER"
        )


def _files(sources: Sequence[Path]) -> Iterator[Path]:
    """Of each folder its pictures, evenly chosen if there are many; and what is named itself."""
    for source in sources:
        if source.is_dir():
            pictures = sorted(file for file in source.rglob("*") if file.suffix.lower() in PICTURES)
            yield from pictures[:: -(-len(pictures) // ENOUGH) or 1]
        else:
            yield source


def _read(file: Path) -> Iterator[np.ndarray]:
    """RGB, from a picture or a video; nothing if it is neither."""
    if file.suffix.lower() in PICTURES:
        picture = cv2.imread(str(file))
        if picture is not None:
            yield cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
        return
    video = cv2.VideoCapture(str(file))
    every = max(1, int(video.get(cv2.CAP_PROP_FRAME_COUNT)) // A_VIDEO)
    index = 0
    while video.grab():
        if index % every == 0:
            yield cv2.cvtColor(video.retrieve()[1], cv2.COLOR_BGR2RGB)
        index += 1
