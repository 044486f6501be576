"""A real RTMPose-t for crops of 64x96, whose head was fitted to three inputs: a checkpoint, and its export.

Random weights give flat outputs, and any rounding moves their peaks. The last layers are linear, so least
squares finds the weights that put a Gaussian at each keypoint.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from engines.assets.store import cached_path
from engines.comparison.example_inputs import drawn_picture, inputs_of
from engines.contracts.contract import Contract, load_contract
from engines.conversion.export import Exported, export_model, random_network

NAME = "small-rtmpose"
SIZE = (64, 96)
SIGMA = 3.0  # in bins
RIDGE = 1e-5  # holds the weights small, as in trained models; without it they amplify rounding
KEYPOINTS = 17


class Small(NamedTuple):
    home: Path  # a POSESTREAM_HOME that holds all of it
    contract: Contract
    checkpoint: Path
    exported: Exported
    batch: np.ndarray  # (3, 3, 96, 64), what the head was fitted to
    points: np.ndarray  # (3, 17, 2), and the keypoints it learned there, px


def make(home: Path) -> Small:
    """Make the model, its checkpoint and its export in the folder `home`, which must be POSESTREAM_HOME."""
    import torch

    model = _contract()
    network = random_network(model, 0)
    batch = inputs_of(model, drawn_picture())
    points = np.random.default_rng(0).integers(8, 56, (len(batch), KEYPOINTS, 2)).astype(np.float64)
    _fit(network, batch, points)
    file = home / "weights.pth"
    torch.save({"state_dict": network.state_dict()}, file)
    content = file.read_bytes()
    asset = {"filename": file.name, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    model = model.model_copy(update={"asset": model.asset.model_copy(update=asset)})
    checkpoint = cached_path(model.asset)
    checkpoint.parent.mkdir(parents=True)
    file.rename(checkpoint)
    (home / "models").mkdir()
    (home / "models" / f"{NAME}.yaml").write_text(yaml.safe_dump(model.model_dump(mode="json")))
    return Small(home, model, checkpoint, export_model(model), batch, points)


def _contract() -> Contract:
    model = load_contract("rtmpose-t-body8")
    outputs = {
        role: output.model_copy(update={"shape": (-1, KEYPOINTS, 2 * size)})
        for (role, output), size in zip(model.outputs.items(), SIZE, strict=True)
    }
    model_input = model.input.model_copy(update={"size": SIZE})
    return model.model_copy(update={"name": NAME, "input": model_input, "outputs": outputs})


def _fit(network, batch: np.ndarray, points: np.ndarray) -> None:
    """Set `head.cls_x` and `head.cls_y` so that the network sees `points` (N, K, 2) in `batch`."""
    import torch

    seen = {}
    layers = {"x": network.head.cls_x, "y": network.head.cls_y}
    hooks = [
        layer.register_forward_pre_hook(lambda _, given, axis=axis: seen.update({axis: given[0]}))
        for axis, layer in layers.items()
    ]
    with torch.no_grad():
        network(torch.from_numpy(batch))
        for index, (axis, layer) in enumerate(layers.items()):
            bins = np.arange(2 * SIZE[index])
            wanted = np.exp(-((bins - 2 * points[..., index, None]) ** 2) / (2 * SIGMA**2))  # (N, K, bins)
            given = seen[axis].double().reshape(-1, seen[axis].shape[-1])  # (N K, hidden)
            target = torch.from_numpy(wanted.reshape(len(given), -1))
            square = given.T @ given
            square += RIDGE * square.trace() * torch.eye(len(square))
            layer.weight.copy_(torch.linalg.solve(square, given.T @ target).T)
    for hook in hooks:
        hook.remove()
