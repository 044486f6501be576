"""Shared by the tests of RTMPose, RTMDet and YOLOX: changed contracts, and comparison with a reference row."""

import numpy as np
import torch
from reference_rows import digest, first_names, names_and_shapes, rows, sample
from seeded import fill, image

from engines.architectures import build

SIZE = (64, 288)


def changed(contract, **changes):
    """A contract with some values changed; `size` is the input size."""
    if size := changes.pop("size", None):
        changes["input"] = contract.input.model_copy(update={"size": size})
    return contract.model_copy(update=changes)


def build_without_memory(contract):
    with torch.device("meta"):
        return build(contract)


def assert_names(family, row, contract):
    """Compare names and shapes with the reference; for the first row name by name, so that a failure is readable."""
    found = names_and_shapes(build_without_memory(contract).state_dict())
    if row["name"] == rows(family)[0]["name"]:
        assert found == first_names(family)
    assert digest(found) == row["digest"]


def assert_output(row, contract):
    """Compare the output of the seeded network on a tiny input."""
    network = build_without_memory(changed(contract, size=SIZE)).to_empty(device="cpu")
    fill(network, row["tiny"]["gain"])
    with torch.no_grad():
        found = network(image(2, 3, SIZE[1], SIZE[0]))
    assert set(found) == set(row["tiny"]["outputs"])
    for role, expected in row["tiny"]["outputs"].items():
        for part, values in sample(found[role]).items():
            np.testing.assert_allclose(values, expected[part], rtol=0, atol=1e-4, err_msg=f"{role} {part}")
