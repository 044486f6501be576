"""Write a video a stream with what was found drawn into it: H.264 in MP4, with the stream's own timing."""

from __future__ import annotations

import functools
import logging
from typing import Annotated, Literal

from pydantic import Field

from engines.errors import ContractError
from engines.skeletons import Skeleton, load_skeleton
from operators.draw import draw
from operators.mp4 import Mp4, find_encoder
from operators.sink_files import Folder, StreamFiles, close_all
from pipeline.operator import Operator, RunInfo
from pipeline.packet import Packet

log = logging.getLogger("posestream.video_sink")

MinScore = Annotated[float, Field(description="keypoints that score less are not drawn")]
Preset = Annotated[
    Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium"],
    Field(description="of libx264: the slower, the smaller the file"),
]
Quality = Annotated[
    int, Field(ge=0, le=51, description="of libx264: lower is better; 18 looks like the source")
]


class VideoSink(Operator):
    """Write `<stream>.mp4`; packets pass on unchanged, their images undrawn.

    needs  image  uint8 (H, W, 3) RGB

    Frames have the times of their packets, counted from the file's first since players want a video to begin
    at 0: a variable rate and dropped frames show as they were. Pictures of an odd size get their last row or
    column twice. Where the picture's size changes, or the stream's clock jumps back, a new file begins:
    `<stream>.2.mp4`, … No sound.
    """

    needs = ("image",)
    per_stream = True

    def __init__(
        self, dir: Folder, min_score: MinScore = 0.5, preset: Preset = "veryfast", quality: Quality = 23
    ):
        self.dir = dir
        self.min_score, self.preset, self.quality = min_score, preset, quality
        self.files: dict[str, Mp4] = {}

    def open(self, run: RunInfo) -> None:
        """Make the folder and choose the encoder.

        Raises:
            SinkError: the folder cannot be made or written to, or there is no encoder.
        """
        self.cores = run.cores
        self.encoder = find_encoder()
        self.paths = StreamFiles(self.dir, "mp4")

    def process(self, packets: list[Packet]) -> list[Packet]:
        """Draw and encode each packet.

        Raises:
            SinkError: the file cannot be written; it is cut to its last whole fragment.
        """
        for packet in packets:
            assert packet.image is not None  # the graph has checked it
            picture = draw(packet.image, packet.instances, _skeleton(packet), self.min_score)
            self._file(packet).append(picture, packet.pts_ns)
        return packets

    def _file(self, packet: Packet) -> Mp4:
        stream, image = packet.stream, packet.image
        assert image is not None
        size = (image.shape[1], image.shape[0])
        file = self.files.get(stream)
        if file is not None and (reason := file.refuses(size, packet.pts_ns)):
            file.close()
            log.warning(
                "%s frame %d: %s; a new file begins behind %s", stream, packet.seq, reason, file.path.name
            )
        elif file is not None:
            return file
        self.files[stream] = self._new_file(stream, size)
        return self.files[stream]

    def _new_file(self, stream: str, size: tuple[int, int]) -> Mp4:
        options = {"threads": str(min(self.cores, 4))}
        if self.encoder == "libx264":
            # Without B-frames a frame's time is its place in the file, which fragments need.
            options |= {"preset": self.preset, "crf": str(self.quality), "bf": "0"}
        return Mp4(self.paths.next(stream), self.encoder, options, size)

    def end_stream(self, stream: str) -> tuple[Packet, ...]:
        """Finish the stream's file; a stream without packets has one without frames."""
        file = self.files.pop(stream, None) or self._new_file(stream, (16, 16))
        file.close()
        return ()

    def close(self) -> None:
        """Finish what streams have left open that never ended."""
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
