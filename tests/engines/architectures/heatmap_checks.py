"""Shared by the tests of HRNet, ViTPose and Sapiens: a contract, and comparison with a reference row."""

import numpy as np
import torch
from reference_rows import GAIN, digest, names_and_shapes, sample
from seeded import fill, image

from engines.architectures import build
from engines.codecs.heatmap import HeatmapCodec
from engines.contracts.contract import Asset, Contract, FileSource, Output
from engines.images.model_input import Input

SKELETONS = {17: "coco17", 133: "coco-wholebody133"}


def heatmap_contract(architecture, variant, size, keypoints=17, heatmap=None):
    heatmap = heatmap or (size[0] // 4, size[1] // 4)
    return Contract(
        name="trial",
        title="",
        task="pose",
        architecture=architecture,
        variant=variant,
        input=Input(
            name="input",
            size=size,
            layout="nchw",
            colour="rgb",
            mean=(123.675, 116.28, 103.53),
            std=(58.395, 57.12, 57.375),
            placement="centre",
            pad_value=0,
            box_padding=1.25,
        ),
        outputs={"heatmaps": Output(name="heatmaps", shape=(-1, keypoints, heatmap[1], heatmap[0]))},
        codec=HeatmapCodec(kind="heatmap", size=heatmap, sigma=2, refine="dark", udp=True),
        skeleton=SKELETONS[keypoints],
        licence="",
        homepage="",
        asset=Asset(filename="trial.pth", sha256="0" * 8, sources=[FileSource(url="trial.pth")]),
    )


def build_without_memory(contract):
    with torch.device("meta"):
        return build(contract)


def assert_names(network, row, names=None):
    """Compare with the digest; if `names` is given, also name by name, so that a failure is readable."""
    found = names_and_shapes(network.state_dict())
    if names is not None:
        assert found == names
    assert digest(found) == row["digest"]


def assert_output(family, row):
    """Compare the output of a seeded network; large variants must be replaced by a tiny one in VARIANTS first."""
    width, height = row["tiny"]["size"]
    network = fill(build(heatmap_contract(family, row["variant"], (width, height))), GAIN[family])
    with torch.no_grad():
        found = sample(network(image(2, 3, height, width))["heatmaps"])
    for part, expected in row["tiny"]["heatmaps"].items():
        np.testing.assert_allclose(found[part], expected, rtol=0, atol=1e-4, err_msg=part)
