"""Write a JSONL file a stream: a header, then a line a frame, as `docs/schema.md` says."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path
from typing import Any

from operators.files.sink_files import (
    Folder,
    RotateMb,
    RotateMin,
    Rotation,
    StreamFiles,
    close_all,
    sink_error,
    write_all,
)
from operators.records.record import event_record, header, record, to_json
from pipeline.operator import Operator, RunInfo
from pipeline.packet import Event, Packet


class JsonlSink(Operator):
    """Write `<stream>.jsonl`; packets pass on unchanged. Events stand between the frames, in their places.

    Every line is written as soon as its frame arrives, so the file can be followed while the graph runs, and
    is whole if the process is killed (not if the machine is: the system writes to disk when it likes). When
    the disk is full, the file ends with its last whole line; where the runtime sets such packets aside
    (`on_error: skip`), writing goes on once there is space.

    `rotate_mb` and `rotate_min` cut long streams into files by the times of their frames, each with a header
    of its own: `<stream>.20260714T031500Z.jsonl`, UTC.
    """

    sink = True
    per_stream = True

    def __init__(self, dir: Folder, rotate_mb: RotateMb = None, rotate_min: RotateMin = None):
        self.dir, self.rotation = dir, Rotation(rotate_mb, rotate_min)
        self.files: dict[str, _JsonlFile] = {}

    def open(self, run: RunInfo) -> None:
        """Make the folder.

        Raises:
            SinkError: the folder cannot be made or written to.
        """
        self.run = run.id
        self.paths = StreamFiles(self.dir, "jsonl", live=run.live)

    def process(self, packets: list[Packet]) -> list[Packet]:
        """Write a line a packet.

        Raises:
            SinkError: the file cannot be written.
        """
        for packet in packets:
            self._file(packet.stream, packet.captured_ns).append(packet)
        return packets

    def event(self, event: Event) -> None:
        """Write a line.

        Raises:
            SinkError: the file cannot be written.
        """
        self._file(event.stream, event.at_ns).note(event)

    def _file(self, stream: str, at_ns: int) -> _JsonlFile:
        """The file into which something of this time goes."""
        file = self.files.get(stream)
        if file is not None and self.rotation.due(file.size, file.first_ns, at_ns):
            self.files.pop(stream).close()
            file = None
        if file is None:
            path = self.paths.next(stream, at_ns if self.rotation.wanted else None)
            file = self.files[stream] = _JsonlFile(path, self.run, stream, at_ns)
        return file

    def end_stream(self, stream: str) -> tuple[Packet, ...]:
        """Close the stream's file; a stream without packets has one with only a header."""
        if stream not in self.files:
            self._file(stream, time.time_ns())
        self.files.pop(stream).close()
        return ()

    def close(self) -> None:
        """Close what streams have left open that never ended."""
        close_all(self.files)


class _JsonlFile:
    """One file, of whole lines at all times."""

    def __init__(self, path: Path, run: str, stream: str, first_ns: int):
        self.path, self.run, self.stream, self.first_ns = path, run, stream, first_ns
        self.file: int | None = None
        self.size = self.frames = 0
        self.skeletons: list[str] = []

    def append(self, packet: Packet) -> None:
        skeleton = packet.instances.skeleton if packet.instances is not None else None
        if skeleton is not None and skeleton not in self.skeletons:
            self._describe([*self.skeletons, skeleton])
        self._add(record(packet))
        self.frames += 1

    def note(self, event: Event) -> None:
        self._add(event_record(event))

    def _add(self, line: dict[str, Any]) -> None:
        if self.size == 0:
            self._write(to_json(header(self.run, self.stream, self.skeletons)))
        self._write(to_json(line))

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
                with contextlib.suppress(OSError):  # it is the error before that is told
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
