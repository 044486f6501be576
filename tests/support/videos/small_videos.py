"""Small videos of moving noise, in codecs that GPUs decode and in others."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FPS = 30


def small_video(
    path: Path,
    codec: str = "libx264",
    *,
    frames: int = 40,
    size: tuple[int, int] = (128, 96),
    pix_fmt: str = "yuv420p",
    rotate: int | None = None,
    colorspace: int | None = None,
) -> Path:
    """Write a video in which all frames differ, with a key frame every 12 and B frames if the codec has them."""
    width, height = size
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    options = {"libx265": {"x265-params": "log-level=none"}}.get(codec, {})
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=FPS, options=options)
        video.width, video.height, video.pix_fmt, video.gop_size = width, height, pix_fmt, 12
        if codec != "libvpx-vp9":
            video.max_b_frames = 2
        if colorspace is not None:
            video.colorspace = colorspace
        if rotate is not None:
            video.set_display_rotation(rotate)
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(np.roll(noise, index, 1), "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(video.encode(frame.reformat(format=pix_fmt)))
        container.mux(video.encode())
    return path
