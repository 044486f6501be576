"""Write a folder of Parquet files for each stream, a row for each instance, for pandas, DuckDB and others."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from operators.files.sink_files import Folder, OpenFiles, Rotation, StreamFiles, close_all, sink_error
from operators.records.parquet import table_of
from pipeline.errors import SinkError
from pipeline.operator import Operator, RunInfo
from pipeline.packet import Packet

Rows = Annotated[int, Field(ge=1, description="rows after which a part is written and a new one begins")]
Minutes = Annotated[
    float | None, Field(gt=0, description="minutes after which a part is written, however few rows it has")
]
RETRY_NS = 1_000_000_000  # between attempts to write a part, so that a full disk is not tried at every frame


class ParquetSink(Operator):
    """Write `<stream>.parquet/part-00000.parquet` …; packets pass on unchanged.

    `docs/schema.md` describes the columns. A frame without instances has one row with the frame's columns
    only. A part appears under its name once it is complete. Until then its rows are in memory, at most
    `rows_per_file` and for `rotate_min`, and a kill loses them. A part has the columns that its packets have:
    if its frames have no instances, it may lack the columns of keypoints. Events are not written.
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
        """Collect the packets, and write each full part.

        Raises:
            SinkError: a part cannot be written.
        """
        for packet in packets:
            self.tables[packet.stream].append(packet)
        return packets

    def _make(self, stream: str) -> _Parts:
        return _Parts(self.paths.next(stream), self.run, stream, self.rows_per_file, self.rotation)

    def end_stream(self, stream: str) -> tuple[Packet, ...]:
        """Write the last part; for a stream without packets, a part without rows."""
        self.tables.end(stream)
        return ()

    def close(self) -> None:
        """Write the last part of streams that have not ended."""
        close_all(self.tables)


class _Parts:
    """The folder of one stream, and the packets of its next part."""

    def __init__(self, folder: Path, run: str, stream: str, rows_per_file: int, rotation: Rotation):
        self.folder, self.run, self.stream = folder, run, stream
        self.rows_per_file, self.rotation = rows_per_file, rotation
        self.failure, self.retry_ns = "", 0
        self.packets: list[Packet] = []
        self.layout: dict[str, Any] = {}
        self.rows = self.frames = self.count = 0

    def append(self, packet: Packet) -> None:
        layout = _layout(packet)
        # All keypoints of a part have one shape; a frame without instances fits any part.
        changed = any(layout[key] != self.layout.get(key, layout[key]) for key in layout)
        # Write before adding this packet: if writing fails, the runtime sets this packet aside.
        first_ns = self.packets[0].captured_ns if self.packets else packet.captured_ns
        if self.rows >= self.rows_per_file or changed or self.rotation.due(0, first_ns, packet.captured_ns):
            self._write_or_wait(packet.captured_ns)
        self.packets.append(packet.replace(picture=None))
        self.layout |= layout
        self.rows += max(1, len(packet.instances) if packet.instances is not None else 0)

    def _write_or_wait(self, now_ns: int) -> None:
        if self.failure and now_ns < self.retry_ns:
            raise SinkError(self.failure)
        try:
            self._write()
        except SinkError as error:
            self.failure, self.retry_ns = str(error), now_ns + RETRY_NS
            raise
        self.failure = ""

    def _write(self) -> None:
        """Write the collected packets as the next part."""
        from pyarrow import parquet

        path = self.folder / f"part-{self.count:05d}.parquet"
        new = path.with_name(f".{path.name}.new")
        try:
            if self.count == 0:
                self.folder.mkdir(exist_ok=True)
                for old in self.folder.glob("part-*.parquet"):  # of an earlier run
                    old.unlink()
            parquet.write_table(table_of(self.packets, self.run, self.stream), new, compression="zstd")
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
            self._write()


def _layout(packet: Packet) -> dict[str, Any]:
    """What must be the same in all packets of a part: skeleton, and shapes of the fields."""
    if not packet.instances:
        return {}
    shapes = {name: field.shape[1:] for name, field in packet.instances.fields.items() if field.size}
    skeleton = packet.instances.skeleton
    return shapes if skeleton is None else {**shapes, "skeleton": skeleton}
