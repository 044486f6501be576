"""Write a JSONL file for each stream: a header, then a line for each frame, as `docs/schema.md` says."""

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
    create_file,
    sink_error,
    write_all,
)
from operators.records.record import event_record, header, record, to_json
from pipeline.operator import Operator, RunInfo
from pipeline.packet import Event, Packet


class JsonlSink(Operator):
    """Write `<stream>.jsonl`; packets pass on unchanged. An event is a line between those of the frames.

    Each line is written when its frame arrives: the file can be followed while the graph runs, and a killed
    process leaves complete lines (a power cut may lose what the system has not yet written to the disk). On
    a full disk the file ends with its last complete line; with `on_error: skip`, writing continues as soon as
    there is space.

    With `rotate_mb` or `rotate_min` a long stream becomes several files, each with its own header, named by
    the time of the first frame: `<stream>.20260714T031500Z.jsonl`, UTC.
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
        """Write a line for each packet.

        Raises:
            SinkError: the file cannot be written.
        """
        for packet in packets:
            self._file(packet.stream, packet.captured_ns).append(packet)
        return packets

    def event(self, event: Event) -> None:
        """Write a line for the event.

        Raises:
            SinkError: the file cannot be written.
        """
        self._file(event.stream, event.at_ns).append_event(event)

    def _file(self, stream: str, at_ns: int) -> _JsonlFile:
        """The file for a line of this time; begins a new one if the last is full."""
        file = self.files.get(stream)
        if file is not None and self.rotation.due(file.size, file.first_ns, at_ns):
            self.files.pop(stream).close()
            file = None
        if file is None:
            path = self.paths.next(stream, at_ns if self.rotation.wanted else None)
            file = self.files[stream] = _JsonlFile(path, self.run, stream, at_ns)
        return file

    def end_stream(self, stream: str) -> tuple[Packet, ...]:
        """Close the stream's file; for a stream without packets, write one with only a header."""
        if stream not in self.files:
            self._file(stream, time.time_ns())
        self.files.pop(stream).close()
        return ()

    def close(self) -> None:
        """Close the files of streams that have not ended."""
        close_all(self.files)


class _JsonlFile:
    """One file; it holds complete lines at all times."""

    def __init__(self, path: Path, run: str, stream: str, first_ns: int):
        self.path, self.run, self.stream, self.first_ns = path, run, stream, first_ns
        self.file: int | None = None
        self.size = self.frames = 0
        self.skeletons: list[str] = []

    def append(self, packet: Packet) -> None:
        skeleton = packet.instances.skeleton if packet.instances is not None else None
        if skeleton is not None and skeleton not in self.skeletons:
            self._set_skeletons([*self.skeletons, skeleton])
        self._add(record(packet))
        self.frames += 1

    def append_event(self, event: Event) -> None:
        self._add(event_record(event))

    def _add(self, line: dict[str, Any]) -> None:
        if self.size == 0:
            self._write(to_json(header(self.run, self.stream, self.skeletons)))
        self._write(to_json(line))

    def _set_skeletons(self, skeletons: list[str]) -> None:
        """Describe these skeletons in the header; rewrites the file if its header is written already."""
        if self.size > 0:
            self._replace_header(to_json(header(self.run, self.stream, skeletons)))
        self.skeletons = skeletons

    def _write(self, line: bytes) -> None:
        try:
            if self.file is None:
                self.file = create_file(self.path)
            write_all(self.file, line, self.size)
        except OSError as error:
            if self.file is not None:
                with contextlib.suppress(OSError):  # report the first error
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
