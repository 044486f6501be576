"""ViTPose against mmpose's: names, shapes, heads and outputs; checkpoints of another input size are refused."""

import pytest

torch = pytest.importorskip("torch")

from heatmap_checks import assert_names, assert_output, build_without_memory, heatmap_contract  # noqa: E402
from reference_rows import TINY_VIT, first_names, rows  # noqa: E402

from engines.architectures import vitpose  # noqa: E402
from engines.architectures.checkpoint_fit import check_fit  # noqa: E402
from engines.architectures.vit import Size  # noqa: E402
from engines.errors import ContractError  # noqa: E402

pytestmark = pytest.mark.slow

ROWS = rows("vitpose")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["variant"])
def test_names_and_shapes_are_those_of_mmpose(row):
    network = build_without_memory(heatmap_contract("vitpose", row["variant"], (192, 256)))
    assert_names(network, row, first_names("vitpose") if row is ROWS[0] else None)
    assert vitpose.VARIANTS[row["variant"]].heads == row["heads"]  # no shape shows the number of heads


@pytest.mark.parametrize("row", [row for row in ROWS if "tiny" in row], ids=lambda row: row["variant"])
def test_output_is_that_of_mmpose(row, monkeypatch):
    tiny = Size(TINY_VIT["embed_dims"], TINY_VIT["num_layers"], TINY_VIT["num_heads"])
    monkeypatch.setitem(vitpose.VARIANTS, row["variant"], tiny)
    assert_output("vitpose", row)


@pytest.mark.parametrize(
    ("trained", "set_to"), [((192, 256), (288, 384)), ((256, 192), (384, 288)), ((256, 256), (384, 384))]
)
def test_weights_of_another_input_size_are_refused_with_both_sizes(trained, set_to):
    weights = build_without_memory(heatmap_contract("vitpose", "s", trained)).state_dict()
    contract = heatmap_contract("vitpose", "s", set_to)
    message = rf"of {trained[0]}x{trained[1]} px .* input.size is {set_to[0]}x{set_to[1]}"
    with pytest.raises(ContractError, match=message):
        check_fit(contract, build_without_memory(contract), weights, "weights.pth")
