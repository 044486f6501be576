"""Names of devices: their parts, their full form, and the errors for wrong ones."""

import re

import pydantic
import pytest

from engines.device import names
from engines.device.names import DeviceOption, existing_device, parse_device, same_kind
from engines.errors import EngineError


@pytest.mark.parametrize(
    ("name", "parts", "full_name"),
    [
        ("cpu", ("cpu", 0), "cpu"),
        ("cuda", ("cuda", 0), "cuda:0"),
        ("cuda:0", ("cuda", 0), "cuda:0"),
        ("cuda:1", ("cuda", 1), "cuda:1"),
    ],
)
def test_parts_and_full_names(monkeypatch, name, parts, full_name):
    monkeypatch.setattr(names, "cuda_devices", lambda: 2)
    assert parse_device(name) == parts
    assert str(parse_device(name)) == existing_device(name) == full_name


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "cuda:x", "cuda1", "cpu:0", "mps", "cpu\n", ""])
def test_other_names_are_refused(name):
    with pytest.raises(EngineError, match="is unknown, expected cpu, cuda, or cuda:1 for the second GPU"):
        parse_device(name)


@pytest.mark.parametrize(
    ("one", "other", "same"), [("cuda:0", "cuda:1", True), ("cpu", "cpu", True), ("cpu", "cuda:0", False)]
)
def test_kinds(one, other, same):
    assert same_kind(one, other) is same


def test_an_operators_option_is_refused_with_the_same_words():
    options = pydantic.TypeAdapter(DeviceOption)
    assert options.validate_python("cuda:1") == "cuda:1"
    with pytest.raises(pydantic.ValidationError) as error:
        options.validate_python("gpu")
    with pytest.raises(EngineError, match=re.escape(error.value.errors()[0]["msg"])):
        parse_device("gpu")
