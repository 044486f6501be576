"""Write a video of each stream with its instances drawn: H.264 in MP4, with the stream's own timing."""

from __future__ import annotations

import functools
import logging
import time
from typing import Annotated, Literal

from pydantic import Field

from engines.contracts.skeletons import Skeleton, load_skeleton
from engines.errors import ContractError
from operators.files.draw import draw
from operators.files.mp4_writer import Mp4, find_encoder
from operators.files.sink_files import Folder, RotateMb, RotateMin, Rotation, StreamFiles, close_all
from pipeline.errors import SinkError
from pipeline.operator import Operator, RunInfo
from pipeline.packet import Packet

log = logging.getLogger("posestream.video_sink")

RETRY_NS = 10_000_000_000  # after a failed write, no new file begins for this long

MinScore = Annotated[float, Field(description="keypoints with a lower score are not drawn")]
Preset = Annotated[
    Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium"],
    Field(description="of libx264: slower presets make smaller files"),
]
Quality = Annotated[
    int, Field(ge=0, le=51, description="of libx264: lower is better; 18 looks like the source")
]


class VideoSink(Operator):
    """Write `<stream>.mp4`; packets pass on unchanged, their images undrawn.

    needs  image  uint8 (H, W, 3) RGB

    Frames keep the times of their packets, so a variable rate and dropped frames show as they were; they are
    counted from the file's first frame, since players expect a video to begin at 0. A picture with an odd
    width or height gets its last column or row twice. If the size changes, or the stream's clock jumps back
    by more than a second or ahead by more than an hour, a new file begins: `<stream>.2.mp4`, … No sound.

    A file is written in fragments of a second, so that it can be played up to the last fragment even if the
    process is killed. On a full disk it is cut to its last complete fragment; with `on_error: skip`, a new
    file begins once there is space. With `rotate_mb` or `rotate_min` a long stream becomes several files,
    named by the time of the first frame: `<stream>.20260714T031500Z.mp4`, UTC.
    """

    needs = ("image",)
    sink = True
    per_stream = True

    def __init__(
        self,
        dir: Folder,
        min_score: MinScore = 0.5,
        preset: Preset = "veryfast",
        quality: Quality = 23,
        rotate_mb: RotateMb = None,
        rotate_min: RotateMin = None,
    ):
        self.dir, self.rotation = dir, Rotation(rotate_mb, rotate_min)
        self.min_score, self.preset, self.quality = min_score, preset, quality
        self.files: dict[str, Mp4] = {}
        self.failures: dict[str, tuple[str, int]] = {}  # stream: error message, when to try again

    def open(self, run: RunInfo) -> None:
        """Make the folder and choose the encoder.

        Raises:
            SinkError: the folder cannot be made or written to, or there is no encoder.
        """
        self.cores = run.cores
        self.encoder = find_encoder()
        self.paths = StreamFiles(self.dir, "mp4", live=run.live)

    def process(self, packets: list[Packet]) -> list[Packet]:
        """Draw and encode each packet.

        Raises:
            SinkError: the file cannot be written; it is cut to its last complete fragment.
        """
        for packet in packets:
            failure, retry_ns = self.failures.get(packet.stream, ("", 0))
            if packet.captured_ns < retry_ns:
                raise SinkError(failure)
            try:
                self._append(packet)
            except SinkError as error:
                if file := self.files.pop(packet.stream, None):  # it has closed itself
                    self.count("frames cut off", file.cut_off)
                self.failures[packet.stream] = str(error), packet.captured_ns + RETRY_NS
                raise
            self.failures.pop(packet.stream, None)
        return packets

    def _append(self, packet: Packet) -> None:
        assert packet.image is not None  # the graph has checked it
        picture = draw(packet.image, packet.instances, _skeleton(packet), self.min_score)
        self._file(packet, (picture.shape[1], picture.shape[0])).append(picture, packet.pts_ns)

    def _file(self, packet: Packet, size: tuple[int, int]) -> Mp4:
        """The file for this packet's picture; begins a new one if the last cannot take it."""
        stream = packet.stream
        file = self.files.get(stream)
        if file is not None:
            reason = file.refuses(size, packet.pts_ns)
            if reason:
                log.warning(
                    "%s frame %d: %s; a new file begins after %s", stream, packet.seq, reason, file.path.name
                )
            elif not self.rotation.due(file.bytes, file.first_ns, packet.captured_ns):
                return file
            self.files.pop(stream).close()
        self.files[stream] = self._new_file(stream, size, packet.captured_ns)
        return self.files[stream]

    def _new_file(self, stream: str, size: tuple[int, int], first_ns: int) -> Mp4:
        options = {"threads": str(min(self.cores, 4))}
        if self.encoder == "libx264":
            # Fragments need frames in the order of their times: no B-frames.
            options |= {"preset": self.preset, "crf": str(self.quality), "bf": "0"}
        path = self.paths.next(stream, first_ns if self.rotation.wanted else None)
        return Mp4(path, self.encoder, options, size, first_ns)

    def end_stream(self, stream: str) -> tuple[Packet, ...]:
        """Finish the stream's file; for a stream without packets, write one without frames."""
        if stream not in self.files and stream not in self.failures:
            self.files[stream] = self._new_file(stream, (16, 16), time.time_ns())
        self.failures.pop(stream, None)
        if file := self.files.pop(stream, None):
            file.close()
        return ()

    def close(self) -> None:
        """Finish the files of streams that have not ended."""
        close_all(self.files)


def _skeleton(packet: Packet) -> Skeleton | None:
    name = packet.instances.skeleton if packet.instances else None
    return None if name is None else _known_skeleton(name)


@functools.cache
def _known_skeleton(name: str) -> Skeleton | None:
    try:
        return load_skeleton(name)
    except ContractError as error:
        log.warning("drawing keypoints without limbs: %s", error)
        return None
