"""The contract inside an ONNX file, as an entry of its metadata.

Reading needs no library. An ONNX file is a protobuf message; its top level holds the graph, which is skipped,
and entries of metadata (onnx.proto: ModelProto.metadata_props, field 14, of type StringStringEntryProto).
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from pydantic import ValidationError

from engines.contracts.contract import Contract
from engines.errors import ContractError

if TYPE_CHECKING:
    import onnx

CONTRACT, EXPORT, QUANTISED = "posestream.contract", "posestream.export", "posestream.quantised"
RANDOM = "random"  # the export note on weights starts with this if they do not come from a checkpoint

METADATA_PROPS = 14
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # protobuf's wire types


def read_contract(path: Path) -> Contract | None:
    """The contract inside the file; None if it has none, is not ONNX or does not exist.

    Raises:
        ContractError: the contract inside is not valid.
    """
    text = read_metadata(path).get(CONTRACT)
    return None if text is None else parse_contract(text, path.name)


def parse_contract(text: str, filename: str) -> Contract:
    """The contract that a file carries as JSON.

    Raises:
        ContractError: it is not valid; with the first field that is wrong.
    """
    try:
        return Contract.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ContractError(
            f"{filename}: the contract inside is not valid: {field + ': ' if field else ''}{first['msg']}; "
            "it is damaged or of another version of posestream, so make the file again"
        ) from None


def read_metadata(path: Path) -> dict[str, str]:
    """All entries of metadata of an ONNX file; none if it is not ONNX or does not exist."""
    entries = {}
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            while file.tell() < size:
                field, content = _field(file, size, METADATA_PROPS)
                if field == METADATA_PROPS:
                    key, value = _entry(content)
                    entries[key] = value
    except (OSError, ValueError):
        return {}
    return entries


def read_notes(path: Path) -> dict[str, Any]:
    """The notes of our export: the weights' origin, and how outputs compare with PyTorch; else empty."""
    try:
        notes = json.loads(read_metadata(path).get(EXPORT, "{}"))
    except ValueError:
        return {}
    return notes if isinstance(notes, dict) else {}


def has_random_weights(path: Path) -> bool:
    """Whether the file says that its weights were drawn at random, for benchmarks."""
    return str(read_notes(path).get("weights", "")).startswith(RANDOM)


def quantised_from(path: Path) -> dict[str, Any] | None:
    """How an INT8 file was made: name and SHA-256 of the FP32 file, inputs, method; None for other files."""
    text = read_metadata(path).get(QUANTISED)
    return None if text is None else cast(dict[str, Any], json.loads(text))


def is_quantised(path: Path) -> bool:
    """Whether the file says that it is the INT8 version of a model."""
    return read_notes(path).get("precision") == "int8"


def write_contract(model: onnx.ModelProto, contract: Contract) -> None:
    """Put the contract into a model; it replaces a contract that is already there."""
    write_metadata(model, CONTRACT, contract.model_dump_json())


def write_metadata(model: onnx.ModelProto, key: str, value: str) -> None:
    """Set one entry of metadata of a model."""
    for entry in model.metadata_props:
        if entry.key == key:
            entry.value = value
            return
    model.metadata_props.add(key=key, value=value)


def _entry(content: bytes) -> tuple[str, str]:
    file, texts = io.BytesIO(content), {1: "", 2: ""}
    while file.tell() < len(content):
        field, text = _field(file, len(content), 1, 2)
        texts[field] = text.decode()
    return texts[1], texts[2]


def _field(file: BinaryIO, end: int, *wanted: int) -> tuple[int, bytes]:
    """The number of the next field, and its bytes if the number is one of `wanted`.

    Raises:
        ValueError: this is not protobuf.
    """
    tag = _varint(file)
    number, kind = tag >> 3, tag & 7
    if kind == VARINT:
        _varint(file)
        return number, b""
    if kind not in (FIXED64, LENGTH, FIXED32) or number == 0:
        raise ValueError(f"wire type {kind}")
    length = _varint(file) if kind == LENGTH else 8 if kind == FIXED64 else 4
    if file.tell() + length > end:
        raise ValueError("a field reaches beyond the end")
    if number in wanted:
        return number, file.read(length)
    file.seek(length, 1)
    return number, b""


def _varint(file: BinaryIO) -> int:
    value = shift = 0
    while shift < 64:
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
        shift += 7
    raise ValueError("not a varint")
