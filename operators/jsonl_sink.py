"""Write a JSONL file a stream: a header, then a line a frame, as `docs/schema.md` says."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from operators.record import header, record, to_json
from operators.sink_files import Folder, OpenFiles, StreamFiles, close_all, sink_error, write_all
from pipeline.operator import Operator, RunInfo
from pipeline.packet import Packet


class JsonlSink(Operator):
    """Write `<stream>.jsonl`; packets pass on unchanged.

    Every line is written as soon as its frame arrives, so the file can be followed while the graph runs. When
    the disk is full, the file ends with its last whole line; where the runtime sets such packets aside
    (`on_error: skip`), writing goes on once there is space.
    """

    per_stream = True

    def __init__(self, dir: Folder):
        self.dir = dir
        self.files = OpenFiles(self._make)

    def open(self, run: RunInfo) -> None:
        """Make the folder.

        Raises:
            SinkError: the folder cannot be made or written to.
        """
        self.run = run.id
        self.paths = StreamFiles(self.dir, "jsonl")

    def process(self, packets: list[Packet]) -> list[Packet]:
        """Write a line a packet.

        Raises:
            SinkError: the file cannot be written.
        """
        for packet in packets:
            self.files[packet.stream].append(packet)
        return packets

    def _make(self, stream: str) -> _JsonlFile:
        return _JsonlFile(self.paths.next(stream), self.run, stream)

    def end_stream(self, stream: str) -> tuple[Packet, ...]:
        """Close the stream's file; a stream without packets has one with only a header."""
        self.files.end(stream)
        return ()

    def close(self) -> None:
        """Close what streams have left open that never ended."""
        close_all(self.files)


class _JsonlFile:
    """One file, of whole lines at all times."""

    def __init__(self, path: Path, run: str, stream: str):
        self.path, self.run, self.stream = path, run, stream
        self.file: int | None = None
        self.size = self.frames = 0
        self.skeletons: list[str] = []

    def append(self, packet: Packet) -> None:
        skeleton = packet.instances.skeleton if packet.instances is not None else None
        if skeleton is not None and skeleton not in self.skeletons:
            self._describe([*self.skeletons, skeleton])
        if self.size == 0:
            self._write(to_json(header(self.run, self.stream, self.skeletons)))
        self._write(to_json(record(packet)))
        self.frames += 1

    def _describe(self, skeletons: list[str]) -> None:
        """Know these skeletons; a file that was begun without them gets a new header, once."""
        if self.size > 0:
            self._replace_header(to_json(header(self.run, self.stream, skeletons)))
        self.skeletons = skeletons

    def _write(self, line: bytes) -> None:
        try:
            if self.file is None:
                self.file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
            write_all(self.file, line, self.size)
        except OSError as error:
            if self.file is not None:
                os.ftruncate(self.file, self.size)
            raise sink_error(self.path, error, self.frames) from None
        self.size += len(line)

    def _replace_header(self, line: bytes) -> None:
        new = self.path.with_name(f".{self.path.name}.new")
        try:
            with self.path.open("rb") as before, new.open("wb") as after:
                before.readline()
                after.write(line)
                shutil.copyfileobj(before, after)
            file = os.open(new, os.O_RDWR | os.O_CLOEXEC)
            new.replace(self.path)
        except OSError as error:
            new.unlink(missing_ok=True)
            raise sink_error(self.path, error, self.frames) from None
        self.close()
        self.file, self.size = file, os.fstat(file).st_size

    def close(self) -> None:
        if self.size == 0:
            self._write(to_json(header(self.run, self.stream)))
        if self.file is not None:
            os.close(self.file)
            self.file = None
