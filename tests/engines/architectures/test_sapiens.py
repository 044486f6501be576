"""Sapiens against its own repository's code: names, shapes, heads and outputs."""

import pytest

torch = pytest.importorskip("torch")

from heatmap_checks import assert_names, assert_output, build_without_memory, heatmap_contract  # noqa: E402
from reference_rows import TINY_VIT, first_names, rows  # noqa: E402

from engines.architectures import sapiens  # noqa: E402
from engines.architectures.vit import Size  # noqa: E402

pytestmark = pytest.mark.slow

ROWS = rows("sapiens")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['variant']}-{row['keypoints']}")
def test_names_and_shapes_are_those_of_the_original(row):
    network = build_without_memory(heatmap_contract("sapiens", row["variant"], (768, 1024), row["keypoints"]))
    assert_names(network, row, first_names("sapiens") if row is ROWS[0] else None)
    assert sapiens.VARIANTS[row["variant"]].heads == row["heads"]  # no shape shows the number of heads


def test_output_is_that_of_the_original(monkeypatch):
    (row,) = (row for row in ROWS if "tiny" in row)
    tiny = Size(TINY_VIT["embed_dims"], TINY_VIT["num_layers"], TINY_VIT["num_heads"])
    monkeypatch.setitem(sapiens.VARIANTS, row["variant"], tiny)
    assert_output("sapiens", row)
