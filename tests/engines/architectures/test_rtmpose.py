"""RTMPose against mmpose's: names, shapes and outputs; and contracts that it must refuse."""

import pytest

torch = pytest.importorskip("torch")

from csp_checks import assert_names, assert_output, build_without_memory, changed  # noqa: E402
from reference_rows import rows  # noqa: E402

from engines.contracts.contract import load_contract  # noqa: E402
from engines.errors import ContractError  # noqa: E402

pytestmark = pytest.mark.slow

ROWS = rows("rtmpose")


def contract_of(row):
    """The model's own contract: its input size, keypoints and split ratio decide on the shapes."""
    return load_contract(row["name"] if "dwpose" in row["name"] else f"rtmpose-{row['name']}")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_names_and_shapes_are_those_of_mmpose(row):
    assert_names("rtmpose", row, contract_of(row))


@pytest.mark.parametrize("row", [row for row in ROWS if "tiny" in row], ids=lambda row: row["name"])
def test_output_is_that_of_mmpose(row):
    assert_output(row, contract_of(row))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (200, 256)}, r"input.size is 200x256, both sides must be multiples of 32 px"),
        ({"codec": load_contract("hrnet-w32-coco").codec}, r"codec.kind is 'heatmap'; set it to 'simcc'"),
        ({"skeleton": None}, r"rtmpose-m-body8 \(rtmpose m\): a pose model needs `skeleton`"),
        ({"variant": "xl"}, r"rtmpose has no variant 'xl'; did you mean"),
    ],
)
def test_contracts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ContractError, match=message):
        build_without_memory(changed(load_contract("rtmpose-m-body8"), **changes))
