"""YOLOX against Megvii's: names, shapes and outputs; and contracts that it must refuse."""

import pytest

torch = pytest.importorskip("torch")

from csp_checks import assert_names, assert_output, build_without_memory, changed  # noqa: E402
from reference_rows import rows  # noqa: E402

from engines.contracts.contract import load_contract  # noqa: E402
from engines.errors import ContractError  # noqa: E402

pytestmark = pytest.mark.slow

ROWS = rows("yolox")


def contract_of(row):
    return changed(load_contract("yolox-s"), variant=row["variant"])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_names_and_shapes_are_those_of_megvii(row):
    assert_names("yolox", row, contract_of(row))


@pytest.mark.parametrize("row", [row for row in ROWS if "tiny" in row], ids=lambda row: row["name"])
def test_output_is_that_of_megvii(row):
    assert_output(row, contract_of(row))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (200, 256)}, r"input.size is 200x256, both sides must be multiples of 32 px"),
        ({"codec": load_contract("rtmdet-m").codec}, r"codec.kind is 'rtmdet'; set it to 'yolox'"),
        (
            {"codec": load_contract("yolox-s").codec.model_copy(update={"strides": [8, 16]})},
            r"its grids have strides of \[8, 16, 32\] px, codec.strides is \[8, 16\]",
        ),
        ({"labels": None}, r"yolox-s \(yolox s\): a detector needs `labels`"),
    ],
)
def test_contracts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ContractError, match=message):
        build_without_memory(changed(load_contract("yolox-s"), **changes))
