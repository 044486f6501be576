"""Videos and images of 64x48 px in which the grey of frame i is 20 + 4 i, so that an image shows its number."""

from __future__ import annotations

from fractions import Fraction

import av
import cv2
import numpy as np

from operators.decode import Decode

WIDTH, HEIGHT, FPS = 64, 48, 30
MS = Fraction(1, 1000)
FRAMES = 50
# The corners of an image: red, green / blue, white, in RGB.
CORNERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
KINDS = [
    ("libx264", "mp4"),
    ("libx264", "mkv"),
    ("libx264", "ts"),
    ("mpeg4", "mp4"),
    ("mpeg4", "avi"),
]  # codec, container


def grey(number, noise=False):
    """The image of a number; with noise in its right half."""
    image = np.full((HEIGHT, WIDTH, 3), 20 + 4 * number, np.uint8)
    if noise:  # makes packets large enough to damage; the left half still shows the number
        rng = np.random.default_rng(number)
        image[:, WIDTH // 2 :] = rng.integers(0, 255, (HEIGHT, WIDTH // 2, 3))
    return image


def number_of(image):
    """The number that an image shows."""
    return round((float(image[:, : WIDTH // 4].mean()) - 20) / 4)


def make_video(path, images, codec="libx264", pts_ms=None, rotate=None, mirror=False, colour=None, **options):
    """Write a video of these images; `pts_ms` gives it a variable rate, `colour` is (matrix, range)."""
    movflags = {"movflags": "+faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=movflags) as container:
        video = container.add_stream(codec, rate=FPS, options=options)
        video.width, video.height = images[0].shape[1], images[0].shape[0]
        video.pix_fmt = "yuv444p" if codec == "libx264" and colour else "yuv420p"
        video.gop_size, video.max_b_frames, video.bit_rate = 12, 2, 2_000_000
        if colour:
            video.colorspace, video.color_range = colour
        if pts_ms:
            video.codec_context.time_base = MS
        if rotate is not None:
            video.set_display_rotation(rotate, hflip=mirror)
        for index, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            if colour:
                frame = frame.reformat(
                    format=video.pix_fmt, dst_colorspace=colour[0], dst_color_range=colour[1]
                )
            frame.pts = pts_ms[index] if pts_ms else index
            frame.time_base = MS if pts_ms else Fraction(1, FPS)
            container.mux(video.encode(frame))
        container.mux(video.encode())
    return path


def write_image(path, image):
    cv2.imwrite(str(path), image)
    return path


def numbers(path, **options):
    """The numbers that the frames of a source show, as `decode` gives them."""
    return [number_of(packet.image) for packet in Decode(**options).read("cam", str(path))]
