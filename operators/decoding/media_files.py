"""Videos, images and folders of images: their headers, and their frames in order of time."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from engines.device.image import Image
from operators.decoding.addresses import scheme_of
from operators.decoding.frame_images import HOST, FrameTarget
from operators.decoding.times import SECOND_NS
from operators.decoding.video import (
    SourceFrame,
    duration_s,
    frame_rate,
    open_video,
    starts_too_late,
    unreadable,
    video_frames,
)
from pipeline.errors import SourceError

IMAGE_TYPES = ("bmp", "jfif", "jp2", "jpeg", "jpg", "pbm", "pgm", "png", "pnm", "ppm", "tif", "tiff", "webp")
IMAGE_FPS = 30.0  # an image has no clock: the rate of a folder unless `fps` gives another


class Header(NamedTuple):
    """What the header of a source says; no frame is decoded for it."""

    fps: float  # on average; 0 if unknown
    frames: int | None
    codec: str
    duration_s: float | None


def read_header(uri: str) -> Header:
    """Read the header of a source.

    Raises:
        SourceError: it cannot be opened.
    """
    images = image_paths(uri)
    if images is not None:
        return Header(IMAGE_FPS, len(images), images[0].suffix[1:].lower(), len(images) / IMAGE_FPS)
    container, stream = open_video(uri, threads=1)
    with container:
        codec = stream.codec_context.codec.canonical_name
        return Header(frame_rate(stream), stream.frames or None, codec, duration_s(container, stream))


def first_frame_size(uri: str) -> tuple[int, int]:
    """Decode the first frame of a source. Returns its width and height in px, upright.

    Raises:
        SourceError: the source cannot be read.
    """
    first = next((image for frame in read_frames(uri) if (image := frame.picture()) is not None), None)
    if first is None:
        raise unreadable(uri, "not one image in it can be decoded")
    height, width = first.shape[:2]
    return width, height


def read_frames(
    uri: str,
    *,
    start_s: float = 0.0,
    stop_s: float = math.inf,
    image_fps: float = IMAGE_FPS,
    threads: int = 0,
    events: Counter[str] | None = None,
    target: FrameTarget = HOST,
) -> Iterator[SourceFrame]:
    """The frames of a source whose time since its beginning is in [start_s, stop_s), in order of time.

    Args:
        uri: a video, an image, a folder of images, or a URL.
        start_s: seconds from the beginning of the source.
        stop_s: seconds from the beginning, exclusive.
        image_fps: the rate of images, which have no times.
        threads: of the decoder; 0: slice threads, n: n frame threads.
        events: counts what goes wrong: "broken_frames" (cannot be decoded, or damaged and therefore left
            out), "truncated" (the file ends earlier than its header says), "read_errors" (reading stopped),
            "missing_frames" (gaps in the times of a stream of even rate), "frames_without_pts" (their time
            was derived from the average rate).
        target: decodes the frames and makes their images.

    Raises:
        SourceError: before the first frame, if there is none in the source or in the range.
    """
    images = image_paths(uri)
    if images is None:
        return video_frames(uri, start_s, stop_s, threads, Counter() if events is None else events, target)
    last_s = (len(images) - 1) / image_fps
    if start_s > last_s:
        raise starts_too_late(uri, start_s, last_s)
    return (
        SourceFrame(round(index * SECOND_NS / image_fps), partial(_picture, path, target))
        for index, path in enumerate(images)
        if start_s <= index / image_fps < stop_s
    )


def image_paths(uri: str) -> list[Path] | None:
    """The images of a folder in natural order (img2 before img10), or the one image; None for a video or URL.

    Raises:
        SourceError: if the path does not exist, is empty, or is a folder without images.
    """
    if scheme_of(uri):
        return None
    path = Path(uri)
    if path.is_dir():
        images = [file for file in path.iterdir() if _is_image(file)]
        if not images:
            kinds = " ".join(IMAGE_TYPES)
            raise SourceError(
                f"cannot read {uri}: the folder holds no images; expected files of type {kinds}"
            )
        return sorted(images, key=_natural_order)
    if not path.exists():
        raise SourceError(f"cannot read {uri}: there is no such file or folder; check the path")
    if path.is_file() and path.stat().st_size == 0:
        raise unreadable(uri, "it is empty (0 bytes)")
    return [path] if _is_image(path) else None


def _is_image(path: Path) -> bool:
    # File managers leave files with a leading dot behind ("._img1.jpg").
    return path.suffix[1:].lower() in IMAGE_TYPES and not path.name.startswith(".") and path.is_file()


def _natural_order(path: Path) -> list[Any]:
    parts = re.split(r"(\d+)", path.name.lower())  # text and digits alternate: equal types are compared
    return [int(part) if index % 2 else part for index, part in enumerate(parts)] + [path.name]


def _picture(path: Path, target: FrameTarget) -> Image | None:
    image = _read_image(path)
    return None if image is None else target.store(image)


def _read_image(path: Path) -> np.ndarray | None:
    """RGB uint8 (H, W, 3), upright by EXIF, without alpha, grey as RGB, 16 bit scaled to 8; None if broken.

    OpenCV rather than FFmpeg, since data sets are evaluated with OpenCV's JPEG decoder and it applies EXIF.
    The bytes are read here, since `cv2.imread` fails on non-ASCII paths on Windows.
    """
    try:
        image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error):  # cv2.error: the file is empty
        return None
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
