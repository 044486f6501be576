"""Metadata of ONNX files that ONNX's own library wrote, read without that library."""

import pytest

from engines.assets.model_files import find_model
from engines.contracts.carried_contract import check_carried
from engines.contracts.contract import load_contract
from engines.contracts.onnx_metadata import (
    CONTRACT,
    has_random_weights,
    read_contract,
    read_metadata,
    write_metadata,
)
from engines.errors import ContractError
from tests.support.models.tiny_onnx import carrying, shaped

onnx = pytest.importorskip("onnx")

MODEL = load_contract("rtmpose-m-body8")


@pytest.fixture
def plain(tmp_path):
    return shaped(tmp_path / "m.onnx", {"input": ["b", 3, 8, 8]}, {"out": ["b", 2]})


def test_a_contract_is_read_as_it_was_written(plain):
    assert read_contract(plain) is None
    assert read_contract(carrying(plain, MODEL)) == MODEL
    other = MODEL.model_copy(update={"name": "other"})
    assert read_contract(carrying(plain, other)) == other  # it replaces the first
    assert len(onnx.load(plain).metadata_props) == 1


def test_other_entries_are_unchanged(plain):
    model = onnx.load(plain)
    write_metadata(model, "stride", "32")
    write_metadata(model, "names", "{0: 'Pferd', 1: '馬'}")
    write_metadata(model, CONTRACT, "{}")
    onnx.save(model, plain)
    assert read_metadata(plain) == {"stride": "32", "names": "{0: 'Pferd', 1: '馬'}", CONTRACT: "{}"}
    assert not has_random_weights(plain)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("{}", "name: Field required"),
        ("no JSON", "Invalid JSON"),
        (MODEL.model_dump_json().replace('"simcc"', '"simdd"'), "codec: Input tag 'simdd'"),
        (MODEL.model_dump_json().replace("coco17", "halpe26"), "Value error, rtmpose-m-body8: output"),
    ],
)
def test_an_invalid_contract_is_refused_wherever_it_is_read(plain, text, wrong):
    model = onnx.load(plain)
    write_metadata(model, CONTRACT, text)
    onnx.save(model, plain)
    refused = rf"m\.onnx: the contract inside is not valid: .*{wrong}.*; .* make the file again"
    for read in (
        read_contract,
        lambda path: find_model(str(path)),
        lambda path: check_carried(MODEL, path),
    ):
        with pytest.raises(ContractError, match=refused):
            read(plain)


@pytest.mark.parametrize(
    "content", [b"", b"\x72", b"\x72\xff", b"<!doctype html>\n" * 50, b"\x72\x02\x0a\xff", bytes(64)]
)
def test_a_file_that_is_not_onnx_has_no_contract(tmp_path, content):
    path = tmp_path / "file.onnx"
    path.write_bytes(content)
    assert read_metadata(path) == {}
    assert read_contract(path) is None


def test_a_truncated_file_has_no_contract(plain):
    carrying(plain, MODEL)
    plain.write_bytes(plain.read_bytes()[:-100])
    assert read_contract(plain) is None


def test_a_missing_file_has_no_contract(tmp_path):
    assert read_contract(tmp_path / "none.onnx") is None
