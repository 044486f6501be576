"""Quantise an ONNX graph from FP32 to INT8, with scales calibrated on inputs of the model.

The graph gets pairs of QuantizeLinear and DequantizeLinear (QDQ), which ONNX Runtime fuses on processors and
TensorRT compiles. The method is ONNX Runtime's quantize_static; this file chooses the layers to quantise.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engines.backends.onnxruntime import OnnxEngine
from engines.comparison.compare import Comparison, compare_engines
from engines.comparison.example_inputs import Examples
from engines.contracts.contract import Contract
from engines.contracts.onnx_metadata import (
    EXPORT,
    QUANTISED,
    has_random_weights,
    quantised_from,
    read_metadata,
    read_notes,
    write_contract,
    write_metadata,
)
from engines.errors import EngineError
from engines.home import cache_home

if TYPE_CHECKING:
    import onnx

# Part of a file's key: change it when the method changes.
METHOD = "QDQ of Conv but the first 1/7, last, depthwise; symmetric int8; ranges by min and max"
OPSET = 13  # the first whose QuantizeLinear has a scale for each channel
HELD_OUT = 5  # every fifth input is held out from calibration, for the comparison
COMPARED = 16  # held-out inputs at most
STEM = 1 / 7  # the share of the convolutions, counted from the input, that stay in FP32
VNNI = {"avx512_vnni", "avx_vnni"}  # as /proc/cpuinfo calls them


class Quantised(NamedTuple):
    """An INT8 file, and its comparison with the FP32 file that it was made from."""

    path: Path
    source: Path
    calibrated_on: int  # inputs
    comparison: Comparison  # with the FP32 file, on held-out inputs
    fresh: bool  # whether this call made it


def quantise(
    contract: Contract,
    source: Path,
    inputs: Iterable[np.ndarray],
    *,
    out: Path | None = None,
    force: bool = False,
) -> Quantised:
    """Write the INT8 version of `source` to `out` or to the cache; all of it or nothing.

    Nothing runs it unless its path is given: the model's name still means the FP32 file.

    Args:
        contract: of the model.
        source: its FP32 graph.
        inputs: (1, …) float32 each, pre-processed as the contract says, typical of what the model will see.
            They are kept on disk, since 200 inputs of a large model take more memory than the model.
        out: the file to write.
        force: make it even if the cache has the same file already.

    Raises:
        EngineError: onnx is missing, `source` is not ONNX or quantised already, or there are too few inputs.
    """
    _check(contract, source)
    with tempfile.TemporaryDirectory(prefix="posestream-int8-") as folder:
        kept, digest = _keep(inputs, Path(folder))
        if len(kept) < HELD_OUT:
            raise EngineError(
                f"{contract.name}: {len(kept)} inputs to calibrate on, expected {HELD_OUT} or more; "
                "give more pictures or videos of what the model will see, or raise --images"
            )
        held_out = kept[HELD_OUT - 1 :: HELD_OUT]
        calibrating = [file for file in kept if file not in set(held_out)]
        sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
        notes = {"source": sha256, "file": source.name, "inputs": digest, "calibrated_on": len(calibrating),
                "method": METHOD}  # fmt: skip
        key = hashlib.sha256(json.dumps([notes, contract.model_dump_json()]).encode()).hexdigest()[:12]
        path = out or cache_home() / "onnx" / f"{contract.name}-int8-{key}.onnx"
        fresh = force or quantised_from(path) != notes
        if fresh:
            _write(contract, source, path, calibrating, notes)
        comparison = _compare(contract, source, path, held_out)
    return Quantised(path, source, len(calibrating), comparison, fresh)


def pays_here() -> bool | None:
    """Whether this processor has VNNI, which makes INT8 faster than FP32; None if it is unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), None)
    return None if flags is None else bool(VNNI.intersection(flags))


def _check(contract: Contract, source: Path) -> None:
    if source.suffix != ".onnx":
        raise EngineError(
            f"{contract.name}: {source.name} is not ONNX, and only ONNX is quantised; name a model whose "
            "file is ONNX, or was exported to ONNX"
        )
    if find_spec("onnx") is None:
        raise EngineError("quantising needs onnx, which is not installed: pip install 'posestream[export]'")
    if quantised_from(source):
        raise EngineError(f"{source.name} is quantised already; give the FP32 file that it was made from")


def _keep(inputs: Iterable[np.ndarray], folder: Path) -> tuple[list[Path], str]:
    """Write the inputs to files; returns these and one hash of all inputs."""
    digest, files = hashlib.sha256(), []
    for number, array in enumerate(inputs):
        files.append(folder / f"{number:05d}.npy")
        np.save(files[-1], array)
        digest.update(array.tobytes())
    return files, digest.hexdigest()


def _write(
    contract: Contract, source: Path, path: Path, calibrating: Sequence[Path], notes: dict[str, object]
) -> None:
    import onnx
    from onnx import version_converter
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # the base class is known only at run time
        def __init__(self) -> None:
            self.files = iter(calibrating)

        def get_next(self) -> dict[str, np.ndarray] | None:
            file = next(self.files, None)
            return None if file is None else {contract.input.name: np.load(file)}

    model = onnx.load(source)
    if next(it.version for it in model.opset_import if it.domain in ("", "ai.onnx")) < OPSET:
        model = version_converter.convert_version(model, OPSET)
    _name_nodes(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".int8-") as folder:
        part = Path(folder) / path.name
        # Else quantize_static warns about a step that simplified graphs do not need.
        add_pre_process_metadata(model)
        onnx.save(model, part)
        quantize_static(
            part,
            part,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=sorted(kept_in_float(model)),
            # TensorRT takes only zero points of 0, and biases in FP32, which ONNX Runtime would make INT32.
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
        )
        made = onnx.load(part)
        for key, value in read_metadata(source).items():
            write_metadata(made, key, value)
        write_contract(made, contract)
        write_metadata(made, EXPORT, json.dumps({**read_notes(source), "precision": "int8"}))
        write_metadata(made, QUANTISED, json.dumps(notes))
        part.write_bytes(made.SerializeToString(deterministic=True))
        part.replace(path)


def _compare(contract: Contract, source: Path, path: Path, held_out: Sequence[Path]) -> Comparison:
    """Compare the INT8 graph, as ONNX Runtime runs it here, with the FP32 graph run node by node."""
    files = held_out[:: -(-len(held_out) // COMPARED)]
    batch = np.concatenate([np.load(file) for file in files])
    return compare_engines(
        contract,
        OnnxEngine(source, optimised=False),
        OnnxEngine(path),
        reference_name="FP32",
        name="INT8",
        trained=not has_random_weights(source),
        on=Examples(batch, f"{len(files)} held-out inputs"),
    )


def kept_in_float(model: onnx.ModelProto) -> set[str]:
    """The names of the convolutions that stay in FP32, because they lose most in INT8.

    Measured on YOLOX-nano as the relative error of its output. With all convolutions in INT8 it is 0.58;
    with the depthwise and the last ones in FP32 0.49. With only ten of the other 74 in INT8 it is 0.49 (the
    first ten), 0.15, 0.10, 0.07, 0.06, 0.03, 0.05 and 0.006 (the last): the outputs of the first layers have
    the largest range.
    """
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    depthwise = {
        node.name for node in convolutions if any(it.name == "group" and it.i > 1 for it in node.attribute)
    }
    others = [node.name for node in convolutions if node.name not in depthwise]
    return depthwise | {*others[: math.ceil(len(others) * STEM)]} | {*_last(model)}


def _last(model: onnx.ModelProto) -> Iterator[str]:
    """The convolutions with no other convolution between them and an output of the graph."""
    needed = {output.name for output in model.graph.output}
    for node in reversed(model.graph.node):  # which come after the nodes that they depend on
        if needed.intersection(node.output):
            if node.op_type == "Conv":
                yield node.name
            else:
                needed.update(node.input)


def _name_nodes(model: onnx.ModelProto) -> None:
    """Name the unnamed nodes, since quantize_static excludes nodes by name."""
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
