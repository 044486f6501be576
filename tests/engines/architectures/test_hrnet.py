"""HRNet against mmpose's: names, shapes and outputs; and contracts that it must refuse."""

import pytest

torch = pytest.importorskip("torch")

from heatmap_checks import assert_names, assert_output, build_without_memory, heatmap_contract  # noqa: E402
from reference_rows import first_names, rows  # noqa: E402

from engines.architectures.heatmap_head import current_names  # noqa: E402
from engines.errors import ContractError  # noqa: E402

pytestmark = pytest.mark.slow

ROWS = rows("hrnet")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['variant']}-{row['keypoints']}")
def test_names_and_shapes_are_those_of_mmpose(row):
    network = build_without_memory(heatmap_contract("hrnet", row["variant"], (192, 256), row["keypoints"]))
    assert_names(network, row, first_names("hrnet") if row is ROWS[0] else None)


@pytest.mark.parametrize("row", [row for row in ROWS if "tiny" in row], ids=lambda row: row["variant"])
def test_output_is_that_of_mmpose(row):
    assert_output("hrnet", row)


@pytest.mark.parametrize(
    ("size", "heatmap", "message"),
    [
        ((768, 768), (256, 256), r"input of 768x768 px gives heatmaps of 192x192, but codec.size is 256x256"),
        ((192, 256), (24, 32), r"input of 192x256 px gives heatmaps of 48x64, but codec.size is 24x32"),
        ((192, 240), (48, 60), r"input.size is 192x240, both sides must be multiples of 32 px"),
    ],
)
def test_sizes_that_do_not_belong_together_are_refused(size, heatmap, message):
    with pytest.raises(ContractError, match=message):
        build_without_memory(heatmap_contract("hrnet", "w18", size, heatmap=heatmap))


SIMCC = {
    "codec": {"kind": "simcc", "split_ratio": 1},
    "outputs": {
        "simcc_x": {"name": "x", "shape": [-1, 17, 192]},
        "simcc_y": {"name": "y", "shape": [-1, 17, 256]},
    },
}
NO_SKELETON = {
    "task": "detect",
    "skeleton": None,
    "outputs": {"heatmaps": {"name": "heatmaps", "shape": [-1, -1, 64, 48]}},
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (NO_SKELETON, r"trial \(hrnet w18\): a pose model needs `skeleton`"),
        (SIMCC, r"read by the codec 'heatmap', but codec.kind is 'simcc'"),
        ({"variant": "w33"}, r"hrnet has no variant 'w33'; did you mean 'w32'"),
    ],
)
def test_contracts_of_other_models_are_refused(changes, message):
    contract = heatmap_contract("hrnet", "w18", (192, 256))
    contract = type(contract).model_validate(contract.model_dump() | changes)
    with pytest.raises(ContractError, match=message):
        build_without_memory(contract)


def test_names_of_older_checkpoints():
    old = {
        "backbone.conv1.weight": 0,
        "keypoint_head.final_layer.0.weight": 1,
        "keypoint_head.final_layer.1.running_var": 2,
        "keypoint_head.final_layer.3.weight": 3,
    }
    new = {
        "backbone.conv1.weight": 0,
        "head.conv_layers.0.weight": 1,
        "head.conv_layers.1.running_var": 2,
        "head.final_layer.weight": 3,
    }
    assert current_names(old) == new
    assert current_names(new) == new
    assert current_names({"keypoint_head.final_layer.bias": 0}) == {"head.final_layer.bias": 0}
