"""A model that every compiler takes: one convolution, with a contract that fits it."""

from __future__ import annotations

from pathlib import Path

from engines.contracts.contract import Contract, Output
from tests.support.models import toy_models
from tests.support.models.tiny_onnx import carrying, peaks

SIZE, STRIDE = 64, 4


def landmarks() -> Contract:
    """Heatmaps of 17 keypoints, 16x16 cells, for crops of 64x64 px."""
    contract = toy_models.contract("heatmap", name="landmarks")
    cells = SIZE // STRIDE
    return contract.model_copy(
        update={
            "input": contract.input.model_copy(update={"name": "input", "size": (SIZE, SIZE)}),
            "outputs": {"heatmaps": Output(name="heatmaps", shape=(-1, toy_models.K, cells, cells))},
            "codec": contract.codec.model_copy(update={"size": (cells, cells)}),
        }
    )


def landmarks_onnx(folder: Path) -> Path:
    """The model, with its contract inside."""
    return carrying(peaks(folder / "landmarks.onnx", SIZE, STRIDE, toy_models.K), landmarks())
