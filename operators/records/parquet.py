"""Parquet tables of packets, and packets from such tables: a row for each instance, as `docs/schema.md` says.

A frame without instances has one row; its column `instances` is 0, or null if no detector ran.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from operators.records.record import header, to_json
from operators.records.schema import GAPS
from pipeline.packet import Instances, Packet

if TYPE_CHECKING:
    import pyarrow as pa

# Column: field of the instances, for all fields that are stored unchanged.
COLUMNS = {"track_id": "track_ids", "label": "labels", "score": "scores", "box": "boxes",
           "detected": "detected", "keypoints": "keypoints", "keypoint_scores": "keypoint_scores",
           "keypoints_3d": "keypoints_3d"}  # fmt: skip


def table_of(packets: list[Packet], run: str, stream: str) -> pa.Table:
    """The rows of these packets; all instances with keypoints must have the same skeleton."""
    import pyarrow as pa

    found = np.array([-1 if p.instances is None else len(p.instances) for p in packets], np.int32)
    repeats = np.maximum(found, 1)
    counts = np.repeat(found, repeats)  # (rows,)
    columns = _frame_columns(packets, repeats)
    columns["instances"] = pa.array(counts, mask=counts < 0)
    moments = np.repeat([-1 if p.moment_ns is None else p.moment_ns for p in packets], repeats)
    columns["moment_ns"] = pa.array(moments, pa.int64(), mask=moments < 0)
    seen = [packet.instances for packet in packets if packet.instances]
    filled = counts > 0  # (rows,)
    for column, field in COLUMNS.items():
        pieces = [instances.get(field) for instances in seen]
        known = next((piece for piece in pieces if piece is not None and piece.size), None)
        if known is None:
            continue
        has = np.concatenate([np.full(len(i), p is not None) for i, p in zip(seen, pieces, strict=True)])
        rows = np.flatnonzero(filled)[has]
        values = np.zeros((len(filled), *known.shape[1:]), known.dtype)
        values[rows] = np.concatenate([piece for piece in pieces if piece is not None])
        missing = np.ones(len(filled), np.bool_)
        missing[rows] = False
        if field == "track_ids":
            missing |= values < 0  # not tracked
        columns[column] = _column(values, missing)
    skeletons = np.full(len(filled), None, np.object_)
    if seen:
        skeletons[filled] = np.repeat([i.skeleton for i in seen], [len(i) for i in seen])
    if any(skeletons):
        columns["skeleton"] = pa.array(skeletons, pa.string())
    names = sorted({name for name in skeletons if name is not None})
    return pa.table(columns).replace_schema_metadata({"posestream": to_json(header(run, stream, names))})


def _frame_columns(packets: list[Packet], repeats: np.ndarray) -> dict[str, pa.Array]:
    import pyarrow as pa

    values = {
        "seq": (np.int64, [packet.seq for packet in packets]),
        "pts_ns": (np.int64, [packet.pts_ns for packet in packets]),
        "captured_ns": (np.int64, [packet.captured_ns for packet in packets]),
        "width": (np.int32, [packet.size[0] for packet in packets]),
        "height": (np.int32, [packet.size[1] for packet in packets]),
        "epoch": (np.int64, [packet.epoch for packet in packets]),
    }
    return {
        name: pa.array(np.repeat(np.array(column, dtype), repeats))
        for name, (dtype, column) in values.items()
    }


def _column(values: np.ndarray, missing: np.ndarray) -> pa.Array:
    """A column of (rows, …) values, null where `missing` (rows,) is true; more axes become nested lists."""
    import pyarrow as pa

    if values.dtype == np.object_:
        return pa.array(values, pa.string(), mask=missing)
    column = pa.array(values.reshape(-1), mask=missing if values.ndim == 1 else None)
    for axis in range(values.ndim - 1, 0, -1):
        column = pa.FixedSizeListArray.from_arrays(
            column, values.shape[axis], mask=pa.array(missing) if axis == 1 else None
        )
    return column


def packets_of(table: pa.Table, stream: str) -> Iterator[Packet]:
    """The packets of a table that `table_of` has made.

    Raises:
        KeyError: a column is missing.
        ValueError: a column has a wrong type.
    """
    table = table.combine_chunks()
    columns = {
        field: _values(table[column], field)
        for column, field in COLUMNS.items()
        if column in table.column_names
    }
    skeletons = table["skeleton"].to_pylist() if "skeleton" in table.column_names else [None] * len(table)
    counts = table["instances"].to_pylist()
    frames = [table[name].to_pylist() for name in ("seq", "pts_ns", "captured_ns", "width", "height")]
    # Files of earlier versions lack these two columns.
    optional = {
        name: table[name].to_pylist() for name in ("epoch", "moment_ns") if name in table.column_names
    }
    row = 0
    while row < len(table):
        count = counts[row]
        rows = slice(row, row + (count or 0))
        fields = {field: values[rows] for field, values in columns.items()}
        instances = Instances(skeleton=skeletons[row], **fields) if count else Instances.empty()
        seq, pts_ns, captured_ns, width, height = (column[row] for column in frames)
        yield Packet(
            stream,
            seq,
            pts_ns,
            captured_ns,
            (width, height),
            instances=None if count is None else instances,
            **{name: column[row] for name, column in optional.items()},
        )
        row += max(count or 0, 1)


def _values(column: pa.ChunkedArray, field: str) -> np.ndarray:
    """A column as an array (rows, …); null becomes the gap of its field."""
    array = column.combine_chunks()
    missing = np.asarray(array.is_null())
    if field == "labels":
        return np.array(array.to_pylist(), np.object_)
    shape = [len(array)]
    while hasattr(array, "values") and hasattr(array.type, "list_size"):
        shape.append(array.type.list_size)
        array = array.values
    gap = GAPS.get(field, np.nan)
    values = np.array(array.fill_null(gap).to_numpy(zero_copy_only=False)).reshape(shape)
    values[missing] = gap
    return values
