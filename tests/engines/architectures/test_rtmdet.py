"""RTMDet against mmdet's: names, shapes and outputs; and contracts that it must refuse."""

import pytest

torch = pytest.importorskip("torch")

from csp_checks import assert_names, assert_output, build_without_memory, changed  # noqa: E402
from reference_rows import rows  # noqa: E402

from engines.contracts.contract import load_contract  # noqa: E402
from engines.errors import ContractError  # noqa: E402

pytestmark = pytest.mark.slow

ROWS = rows("rtmdet")


def contract_of(row):
    """RTMDet-m's contract with the row's variant and labels."""
    labels = ["person"] if "person" in row["name"] else load_contract("yolox-s").labels
    return changed(load_contract("rtmdet-m"), variant=row["variant"], labels=labels)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_names_and_shapes_are_those_of_mmdet(row):
    assert_names("rtmdet", row, contract_of(row))


@pytest.mark.parametrize("row", [row for row in ROWS if "tiny" in row], ids=lambda row: row["name"])
def test_output_is_that_of_mmdet(row):
    assert_output(row, contract_of(row))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (200, 256)}, r"input.size is 200x256, both sides must be multiples of 32 px"),
        ({"codec": load_contract("yolox-s").codec}, r"codec.kind is 'yolox'; set it to 'rtmdet'"),
        ({"labels": None}, r"rtmdet-m \(rtmdet m\): a detector needs `labels`"),
    ],
)
def test_contracts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ContractError, match=message):
        build_without_memory(changed(load_contract("rtmdet-m"), **changes))
