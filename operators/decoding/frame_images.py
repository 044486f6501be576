"""The images of a video's frames: planes of YUV as decoded where models can use them, else upright RGB."""

from __future__ import annotations

import functools
import threading
from functools import partial
from typing import Any, Protocol

import cv2
import numpy as np
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange, VideoReformatter

from engines.device.image import Image
from engines.images.yuv import YuvImage, rgb_matrix

# FFmpeg's numbers of colour matrices (ITU-T H.273). 2 is "unspecified"; like swscale, take it for BT.601.
STANDARDS = {1: "bt709", 2: "bt601", 5: "bt601", 6: "bt601", 9: "bt2020"}


class Decoder(Protocol):
    """Decodes the packets of a video: FFmpeg's `VideoCodecContext`, or `nvdec.Nvdec`."""

    def decode(self, packet: Packet | None) -> list[VideoFrame]:
        """The frames that are complete with this packet; with None, at the end, all that are left."""

    def flush_buffers(self) -> None:
        """Discard frames that are not complete; the next packet may come from another place in the video."""


class FrameTarget(Protocol):
    """Where the frames of a source are decoded and stored: on the processor, or in a GPU's memory."""

    def decoder(self, context: VideoCodecContext) -> Decoder:
        """A decoder for the packets of a video, to be used in place of `context`."""

    def picture(self, frame: VideoFrame, matrix: np.ndarray | None) -> Image:
        """The image of a frame from that decoder; `matrix` is its display matrix, see `DisplayMatrix`."""

    def store(self, picture: np.ndarray) -> Image:
        """The same for RGB (H, W, 3) uint8 that was decoded otherwise (an image file)."""


class HostFrames:
    """Decodes on the processor and keeps frames in its memory."""

    def decoder(self, context: VideoCodecContext) -> Decoder:
        """FFmpeg's decoder itself."""
        return context

    def picture(self, frame: VideoFrame, matrix: np.ndarray | None) -> np.ndarray | YuvImage:
        """See `picture_of`."""
        return picture_of(frame, matrix)

    def store(self, picture: np.ndarray) -> np.ndarray:
        """The array itself."""
        return picture


HOST = HostFrames()


def picture_of(frame: VideoFrame, matrix: np.ndarray | None = None) -> np.ndarray | YuvImage:
    """The image of a frame: its own planes if it is 8 bit 4:2:0 and upright, as most are; else upright RGB.

    `matrix` is its display matrix, see `DisplayMatrix`.
    """
    colours = colour_matrix(frame)
    if frame.format.name not in ("yuv420p", "yuvj420p") or colours is None or matrix is not None:
        return _to_rgb(frame, matrix)
    y, u, v = (_view(plane) for plane in frame.planes)
    return YuvImage(y, u, v, colours, partial(_to_rgb, frame))


def colour_matrix(frame: VideoFrame) -> np.ndarray | None:
    """The (3, 4) matrix from the frame's YUV to RGB, see `YuvImage`; None if its standard is unknown."""
    standard = STANDARDS.get(frame.colorspace)
    full_range = frame.format.name == "yuvj420p" or frame.color_range == ColorRange.JPEG
    return None if standard is None else _matrix(standard, full_range)


_scalers = threading.local()


@functools.cache
def _matrix(standard: str, full_range: bool) -> np.ndarray:
    """The matrix that gives crops the same colours as whole images (`Packet.image`), which swscale converts.

    swscale adds up table entries, each rounded down, which makes images darker by half a grey level per
    table: one for red and blue, two for green, and one more in limited range (measured; for all standards).
    """
    matrix = rgb_matrix(standard, full_range=full_range)
    matrix[:, 3] -= np.array([0.5, 1.0, 0.5]) if full_range else np.array([1.0, 1.5, 1.0])
    return matrix


def _view(plane: VideoPlane) -> np.ndarray:
    """The samples of a plane (H, W) uint8, not copied; the array keeps the frame alive."""
    rows = np.frombuffer(plane, np.uint8, plane.height * plane.line_size)  # type: ignore[call-overload]
    return rows.reshape(plane.height, plane.line_size)[:, : plane.width]


def _to_rgb(frame: VideoFrame, matrix: np.ndarray | None = None) -> np.ndarray:
    """RGB uint8 (H, W, 3), C-contiguous and upright.

    swscale uses the frame's matrix (BT.601, 709, 2020) and range. Unspecified means BT.601, limited range, as
    in OpenCV; the result is then bit-identical to OpenCV's. One reformatter per thread serves all frames,
    which saves setting up a scaler for each; more threads would only take cores from the decoder. Takes
    0.8 ms for 1080x1920 on one core; cv2.cvtColor on the planes takes 1.4 ms and supports BT.601 only.
    """
    image = _scaler().reformat(frame, format="rgb24", threads=1).to_ndarray()
    # FFmpeg pads rows to 64 bytes: widths such as 1080 need a copy here; 1920, 1280 and 640 do not.
    return np.ascontiguousarray(_upright(image, matrix))


def _scaler() -> VideoReformatter:
    """This thread's reformatter. One that a frame makes for itself would start a thread per core."""
    if not hasattr(_scalers, "reformatter"):
        _scalers.reformatter = VideoReformatter()
    scaler: VideoReformatter = _scalers.reformatter
    return scaler


class DisplayMatrix:
    """The display matrix of a video's frames, looked up again when their rotation changes.

    Reading PyAV's `side_data` puts the frame into a reference cycle that only the garbage collector frees,
    and one such frame keeps all buffers of its decoder alive. So read `rotation`, which makes no cycle, and
    only if it has changed the side data of a tiny copy.
    """

    def __init__(self) -> None:
        self._rotation: int | None = None
        self._matrix: np.ndarray | None = None

    def __call__(self, frame: VideoFrame) -> np.ndarray | None:
        """The matrix (9,) int32 of this frame; None if it has none."""
        # NVDEC is used for upright videos only (`nvdec.unsuited`), and a copy of its frame is a download.
        if frame.format.name == "cuda" and not frame.rotation:
            return None
        if frame.rotation != self._rotation:
            self._rotation = frame.rotation
            side_data: Any = _scaler().reformat(frame, width=16, height=16, threads=1).side_data
            found = side_data.get("DISPLAYMATRIX")
            self._matrix = None if found is None else np.frombuffer(found, np.int32).copy()
        return self._matrix


def _upright(image: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """Rotate (to the nearest quarter turn) and mirror by the display matrix."""
    if matrix is None:
        return image
    # Row vectors: x' = a x + c y, y' = b x + d y, in 16.16 fixed point (libavutil/display.h).
    a, b, _, c, d = matrix[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, across, down = cv2.transpose(image), c, b
    else:
        across, down = a, d
    if across < 0 or down < 0:
        image = cv2.flip(image, -1 if across < 0 and down < 0 else int(across < 0))
    return image
