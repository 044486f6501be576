"""INT8 from FP32: an ONNX graph with pairs of QuantizeLinear and DequantizeLinear, calibrated on pictures.

On processors with VNNI ONNX Runtime runs such graphs faster, on others slower; TensorRT compiles them. The
convolutions alone are quantised, with a scale a channel: they are nine tenths of the time of all our models,
and what stands behind them (attention, coordinates, suppression) needs the precision.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from engines.backends.onnxruntime import OnnxEngine
from engines.contract import Contract
from engines.errors import EngineError
from engines.geometry import crops, letterbox_matrix
from engines.metadata import EXPORT, read_notes, write_contract, write_metadata
from engines.prepared import exported_path, is_checkpoint, runnable
from engines.verify import Report, verify_engine

PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
ENOUGH = 60  # pictures; more change the ranges little
OPSET = 13  # the first that has a scale a channel
A_VIDEO = 50  # frames, evenly over its length


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
    if find_spec("onnx") is None:
        raise EngineError("quantising needs onnx, which is not installed: pip install 'posestream[export]'")
    import onnx
    import onnx.version_converter
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    graph = runnable(contract)
    if graph.suffix != ".onnx":
        raise EngineError(f"{contract.name}: {graph.name} is not ONNX, so it cannot be quantised")
    path = out or (exported_path(contract).with_name(f"{contract.name}-int8.onnx"))
    count = 0

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # a base that is known only here
        def __init__(self) -> None:
            self.inputs = _inputs(contract, sources)

        def get_next(self) -> dict[str, np.ndarray] | None:
            nonlocal count
            batch = next(self.inputs, None)
            if batch is None:
                return None
            count += 1
            return {contract.input.name: batch}

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".int8-") as folder:
        part = Path(folder) / path.name
        model = onnx.load(graph)
        if model.opset_import[0].version < OPSET:
            model = onnx.version_converter.convert_version(model, OPSET)
        quant_pre_process(model, part, skip_symbolic_shape=True, skip_optimization=True)
        quantize_static(
            part,
            part,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv"],
            extra_options={"ActivationSymmetric": True},  # TensorRT knows no zero points
        )
        model = onnx.load(part)
        write_contract(model, contract)
        notes = {**read_notes(graph), "precision": "int8", "calibrated_on": f"{count} pictures"}
        write_metadata(model, EXPORT, json.dumps(notes))
        onnx.save(model, part)
        report = verify_engine(contract, OnnxEngine(part), part, name="int8")
        part.replace(path)
    return Quantised(path, count, report)


def _inputs(contract: Contract, sources: Sequence[Path]) -> Iterator[np.ndarray]:
    """(1, 3, H, W): the pictures, letterboxed."""
    files = [file for source in sources for file in (sorted(source.rglob("*")) if source.is_dir() else [source])]
    pictures = [file for file in files if file.suffix.lower() in PICTURES]
    pictures = pictures[:: max(1, len(pictures) // ENOUGH)][:ENOUGH]
    found = False
    for file in [*pictures, *(file for file in files if file not in pictures and file in sources)]:
        for picture in _read(file):
            found = True
            matrix = letterbox_matrix((picture.shape[1], picture.shape[0]), contract.input)
            yield crops([picture], np.zeros(1, np.int64), matrix[None], contract.input)
    if not found:
        raise EngineError(
            f"no picture or video in {', '.join(map(str, sources)) or 'nothing'}; calibration needs some of "
            "what the model will see: --calibration FOLDER"
        )


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
