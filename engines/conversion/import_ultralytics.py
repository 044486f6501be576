"""Import a model that was trained with ultralytics: export it once, then run it without ultralytics.

An ultralytics `.pt` is a pickle of Python objects, and loading it can run any code that its author put in. An
allow-list does not help, since the network itself is such an object. So importing is a separate command that
warns about this, and nothing else in the project loads such a file. ultralytics and the models that it trains
are under the AGPL-3.0, unless Ultralytics has licensed them otherwise.
"""

from __future__ import annotations

import ast
import importlib.util
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.assets.store import sha256
from engines.contracts.config_files import check_config
from engines.contracts.contract import Contract
from engines.contracts.onnx_metadata import write_contract
from engines.contracts.shapes import describe_shape
from engines.contracts.skeletons import available_skeletons
from engines.errors import ContractError, EngineError, one_line

if TYPE_CHECKING:
    import onnx

log = logging.getLogger("posestream.import")

OPSET = 18
# Its letterbox pads with GREY, and its predictor divides by WHITE (ultralytics/data/augment.py).
GREY, WHITE = 114.0, 255.0
KINDS = {"detect": ("detect", "yolo"), "pose": ("pose_onestage", "yolo-pose")}  # its task: our task and codec
COCO_KEYPOINTS = 17
LICENCE, HOMEPAGE = "AGPL-3.0", "https://github.com/ultralytics/ultralytics"
# No installing of packages, no requests to servers, no printing. Read when ultralytics is first imported.
ENVIRONMENT = {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true", "YOLO_VERBOSE": "false"}


def import_pt(path: Path, out_onnx: Path, *, skeleton: str | None = None) -> Contract:
    """Export an ultralytics checkpoint to ONNX, and make its contract, which the ONNX file then carries.

    **This runs code from the file**: import only files from people you trust.

    Args:
        path: a `.pt` of a detector or a pose model, YOLOv8 or later.
        out_onnx: what to write; its name without the suffix becomes the model's name.
        skeleton: of a pose model's keypoints; coco17 by default if there are 17.

    Raises:
        EngineError: a library is missing, the file is not a checkpoint of ultralytics, it is neither a
            detector nor a pose model, or there is no codec for its output.
        ContractError: the skeleton is not known, or has another number of keypoints.
    """
    for library in ("ultralytics", "onnx"):
        if importlib.util.find_spec(library) is None:
            raise EngineError(
                f"importing {path.name} needs {library}, which is not installed: "
                "pip install 'posestream[ultralytics]'; an imported model runs without it"
            )
    log.warning(
        "%s is a pickle: importing it runs code from the file, so import it only if you trust it", path
    )
    with tempfile.TemporaryDirectory() as folder:
        graph = _export(path, Path(folder))
    notes = {entry.key: entry.value for entry in graph.metadata_props}
    description = _describe(notes, graph, path, out_onnx.stem, skeleton)
    contract = check_config(Contract, description, path.name)
    del graph.metadata_props[:]  # ultralytics' notes, with a date; the contract has what matters
    write_contract(graph, contract)
    part = out_onnx.with_name(f".{out_onnx.name}.part")
    part.write_bytes(graph.SerializeToString(deterministic=True))
    part.replace(out_onnx)
    return contract


def _export(path: Path, folder: Path) -> onnx.ModelProto:
    """The graph, with ultralytics' notes in its metadata; from a copy, since it exports beside the file."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import onnx
    from ultralytics import YOLO

    try:
        model = YOLO(shutil.copyfile(path, folder / "model.pt"))
    except Exception as error:  # a pickle may raise anything
        raise EngineError(
            f"{path.name} is not a checkpoint of ultralytics ({one_line(error)}); for another kind of "
            "checkpoint add --like, or --architecture"
        ) from None
    if model.task not in KINDS:
        raise EngineError(
            f"{path.name} is an ultralytics model for {model.task!r}, expected one of {sorted(KINDS)}"
        )
    try:
        return onnx.load(model.export(format="onnx", dynamic=True, simplify=False, opset=OPSET, device="cpu"))
    except Exception as error:  # PyTorch's exporter may raise anything
        raise EngineError(f"{path.name}: ultralytics cannot export it ({one_line(error)})") from None


def _describe(
    notes: dict[str, str], graph: onnx.ModelProto, path: Path, name: str, skeleton: str | None
) -> dict[str, Any]:
    """The fields of the contract, from ultralytics' `notes` in the graph's metadata."""
    task, codec = KINDS[notes["task"]]
    labels = [label for _, label in sorted(ast.literal_eval(notes["names"]).items())]
    keypoints, values = ast.literal_eval(notes.get("kpt_shape", "(0, 0)"))
    height, width = ast.literal_eval(notes["imgsz"])
    pose = {
        "codec": {"kind": codec, "values_per_keypoint": values},
        "skeleton": skeleton or _skeleton(path, keypoints),
    } if keypoints else {}  # fmt: skip
    return {
        "name": name,
        "title": f"{path.name}, by ultralytics {notes['version']}",
        "task": task,
        "architecture": "yolo",
        "input": {
            "name": graph.graph.input[0].name,
            "size": (width, height),
            "layout": "nchw",
            "colour": "rgb",
            "mean": (0.0,) * 3,
            "std": (WHITE,) * 3,
            "placement": "centre_px",
            "pad_value": GREY,
        },
        "outputs": {"predictions": _output(graph, path, 4 + len(labels) + keypoints * values)},
        "codec": {"kind": codec},
        "labels": labels,
        "licence": LICENCE,
        "homepage": HOMEPAGE,
        "asset": {
            "filename": path.name,
            "sha256": sha256(path),
            "sha256_from": "copy",
            "bytes": path.stat().st_size,
            "sources": [{"kind": "file", "url": str(path)}],
        },
        **pose,
    }


def _output(graph: onnx.ModelProto, path: Path, rows: int) -> dict[str, Any]:
    """The single output, (B, rows, cells)."""
    shapes = {
        output.name: tuple(size.dim_value or -1 for size in output.type.tensor_type.shape.dim)
        for output in graph.graph.output
    }
    name, shape = next(iter(shapes.items()))
    if len(shapes) > 1 or len(shape) != 3 or shape[1] not in (rows, -1):
        found = ", ".join(f"{name} {describe_shape(shape)}" for name, shape in shapes.items())
        raise EngineError(
            f"{path.name}: its graph gives {found}, expected one output of ?x{rows}x?, a prediction a cell; "
            "end-to-end heads, which choose among their predictions themselves (YOLOv10), are not supported"
        )
    return {"name": name, "shape": (-1, rows, -1)}


def _skeleton(path: Path, keypoints: int) -> str:
    if keypoints == COCO_KEYPOINTS:
        return "coco17"
    raise ContractError(
        f"{path.name} has {keypoints} keypoints and does not say which; name their skeleton "
        f"(--skeleton, one of {', '.join(available_skeletons())}, or one of your own)"
    )
