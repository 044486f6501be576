"""Write a folder of Parquet files a stream, a row an instance, for pandas, Polars, DuckDB and Spark."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from operators.files.sink_files import Folder, OpenFiles, Rotation, StreamFiles, close_all, sink_error
from operators.records.record import header, to_json
from pipeline.errors import SinkError
from pipeline.operator import Operator, RunInfo
from pipeline.packet import Packet

if TYPE_CHECKING:
    import pyarrow as pa

Rows = Annotated[int, Field(ge=1, description="rows after which a part is written and the next begun")]
Minutes = Annotated[
    float | None, Field(gt=0, description="minutes after which it is, however few rows it has")
]
RETRY_NS = 1_000_000_000  # a part that could not be written is tried again so much later, not at every frame

# Column to field of the instances, as far as a field is a column as it is.
COLUMNS = {"track_id": "track_ids", "label": "labels", "score": "scores", "box": "boxes",
           "detected": "detected", "keypoints": "keypoints", "keypoint_scores": "keypoint_scores",
           "keypoints_3d": "keypoints_3d"}  # fmt: skip


class ParquetSink(Operator):
    """Write `<stream>.parquet/part-00000.parquet` …; packets pass on unchanged.

    Columns are described in `docs/schema.md`. A frame without instances has one row, with nothing in it but
    the frame. A part appears under its name only when it is complete; up to `rows_per_file` rows are held in
    memory until then, and lost if the process is killed; `rotate_min` bounds how long. A part has the columns
    that its packets had: one in which nobody was seen may lack those of keypoints. Events have no place here.
    """

    sink = True
    per_stream = True

    def __init__(self, dir: Folder, rows_per_file: Rows = 10_000, rotate_min: Minutes = None):
        self.dir, self.rows_per_file = dir, rows_per_file
        self.rotation = Rotation(minutes=rotate_min)
        self.tables = OpenFiles(self._make)

    def open(self, run: RunInfo) -> None:
        """Make the folder.

        Raises:
            SinkError: pyarrow is not installed, or the folder cannot be made or written to.
        """
        try:
            importlib.import_module("pyarrow.parquet")
        except ImportError:
            raise SinkError(
                'Parquet needs pyarrow, which is not installed; run: pip install "posestream[parquet]"'
            ) from None
        self.run = run.id
        self.paths = StreamFiles(self.dir, "parquet", live=run.live)

    def process(self, packets: list[Packet]) -> list[Packet]:
        """Keep the rows of each packet, and write those of a full part.

        Raises:
            SinkError: a part cannot be written.
        """
        for packet in packets:
            self.tables[packet.stream].append(packet)
        return packets

    def _make(self, stream: str) -> _Parts:
        return _Parts(self.paths.next(stream), self.run, stream, self.rows_per_file, self.rotation)

    def end_stream(self, stream: str) -> tuple[Packet, ...]:
        """Write the last part; a stream without packets has one without rows."""
        self.tables.end(stream)
        return ()

    def close(self) -> None:
        """Write what streams still hold that never ended."""
        close_all(self.tables)


class _Parts:
    """The folder of one stream, and the packets that the next part will hold."""

    def __init__(self, folder: Path, run: str, stream: str, rows_per_file: int, rotation: Rotation):
        self.folder, self.run, self.stream = folder, run, stream
        self.rows_per_file, self.rotation = rows_per_file, rotation
        self.failure, self.retry_ns = "", 0
        self.packets: list[Packet] = []
        self.layout: dict[str, Any] = {}
        self.rows = self.frames = self.count = 0

    def append(self, packet: Packet) -> None:
        layout = _layout(packet)
        # A part has one shape of keypoints; a frame that says nothing of it goes with either.
        changed = any(layout[key] != self.layout.get(key, layout[key]) for key in layout)
        # Written before this packet is kept: where writing fails, it is this packet that is set aside.
        first_ns = self.packets[0].captured_ns if self.packets else packet.captured_ns
        if self.rows >= self.rows_per_file or changed or self.rotation.due(0, first_ns, packet.captured_ns):
            self._write_at(packet.captured_ns)
        self.packets.append(packet.replace(picture=None))
        self.layout |= layout
        self.rows += max(1, len(packet.instances) if packet.instances is not None else 0)

    def _write_at(self, now_ns: int) -> None:
        if self.failure and now_ns < self.retry_ns:
            raise SinkError(self.failure)
        try:
            self.write()
        except SinkError as error:
            self.failure, self.retry_ns = str(error), now_ns + RETRY_NS
            raise
        self.failure = ""

    def write(self) -> None:
        """Write the packets at hand as the next part."""
        from pyarrow import parquet

        path = self.folder / f"part-{self.count:05d}.parquet"
        new = path.with_name(f".{path.name}.new")
        try:
            if self.count == 0:
                self.folder.mkdir(exist_ok=True)
                for old in self.folder.glob("part-*.parquet"):  # of an earlier run
                    old.unlink()
            parquet.write_table(table(self.packets, self.run, self.stream), new, compression="zstd")
            new.replace(path)
        except OSError as error:
            if self.folder.is_dir():
                new.unlink(missing_ok=True)
            raise sink_error(path, error, self.frames) from None
        self.count += 1
        self.frames += len(self.packets)
        self.packets, self.layout, self.rows = [], {}, 0

    def close(self) -> None:
        if self.packets or self.count == 0:
            self.write()


def _layout(packet: Packet) -> dict[str, Any]:
    """What must be alike in all packets of a part."""
    if not packet.instances:
        return {}
    shapes = {name: field.shape[1:] for name, field in packet.instances.fields.items() if field.size}
    skeleton = packet.instances.skeleton
    return shapes if skeleton is None else {**shapes, "skeleton": skeleton}


def table(packets: list[Packet], run: str, stream: str) -> pa.Table:
    """The rows of these packets; all that have instances with keypoints have the same skeleton."""
    import pyarrow as pa

    found = np.array([-1 if p.instances is None else len(p.instances) for p in packets], np.int32)
    repeats = np.maximum(found, 1)
    frames = {
        "seq": (np.int64, [packet.seq for packet in packets]),
        "pts_ns": (np.int64, [packet.pts_ns for packet in packets]),
        "captured_ns": (np.int64, [packet.captured_ns for packet in packets]),
        "width": (np.int32, [packet.size[0] for packet in packets]),
        "height": (np.int32, [packet.size[1] for packet in packets]),
        "epoch": (np.int64, [packet.epoch for packet in packets]),
    }
    columns = {
        name: pa.array(np.repeat(np.array(values, dtype), repeats))
        for name, (dtype, values) in frames.items()
    }
    counts = np.repeat(found, repeats)
    columns["instances"] = pa.array(counts, mask=counts < 0)
    moments = np.repeat([-1 if p.moment_ns is None else p.moment_ns for p in packets], repeats)
    columns["moment_ns"] = pa.array(moments, pa.int64(), mask=moments < 0)
    seen = [packet.instances for packet in packets if packet.instances]
    full = counts > 0  # (rows,)
    skeletons = np.full(len(full), None, np.object_)
    if seen:
        skeletons[full] = np.repeat([i.skeleton for i in seen], [len(i) for i in seen])
    for column, field in COLUMNS.items():
        pieces = [instances.get(field) for instances in seen]
        known = next((piece for piece in pieces if piece is not None and piece.size), None)
        if known is None:
            continue
        has = np.concatenate([np.full(len(i), p is not None) for i, p in zip(seen, pieces, strict=True)])
        rows = np.flatnonzero(full)[has]
        values = np.zeros((len(full), *known.shape[1:]), known.dtype)
        values[rows] = np.concatenate([piece for piece in pieces if piece is not None])
        missing = np.ones(len(full), np.bool_)
        missing[rows] = False
        if field == "track_ids":
            missing |= values < 0  # not tracked
        columns[column] = _array(values, missing)
    if any(skeletons):
        columns["skeleton"] = pa.array(skeletons, pa.string())
    names = sorted({name for name in skeletons if name is not None})
    return pa.table(columns).replace_schema_metadata({"posestream": to_json(header(run, stream, names))})


def _array(values: np.ndarray, missing: np.ndarray) -> pa.Array:
    """A column of (rows, …) values; further axes become lists of fixed sizes."""
    import pyarrow as pa

    if values.dtype == np.object_:
        return pa.array(values, pa.string(), mask=missing)
    column = pa.array(values.reshape(-1), mask=missing if values.ndim == 1 else None)
    for axis in range(values.ndim - 1, 0, -1):
        column = pa.FixedSizeListArray.from_arrays(
            column, values.shape[axis], mask=pa.array(missing) if axis == 1 else None
        )
    return column
