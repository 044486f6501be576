"""Generate a clip like a camera's: H.264, a moving scene with texture, a key frame a second, no B-frames."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

FPS = 30
BIT_RATE = 6_000_000  # usual for cameras at 1920x1080; smaller pictures get less
FIGURES = 6
LOOP_S = 3  # this much is encoded, and then repeated


def make_clip(path: Path, size: tuple[int, int], seconds: float) -> Path:
    """Write a clip of this many seconds, unless the file exists; three seconds are encoded, then repeated.

    Raises:
        RuntimeError: this PyAV cannot encode H.264.
    """
    if path.exists():
        return path
    if "libx264" not in av.codecs_available:
        raise RuntimeError("this PyAV has no libx264, so no clip can be generated; give one: --clip FILE")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        loop = Path(folder, path.name)
        _encode(loop, size, round(FPS * min(seconds, LOOP_S)))
        return repeated(loop, path, round(max(seconds / LOOP_S, 1)))


def repeated(clip: Path, path: Path, times: int) -> Path:
    """Write a clip's packets this many times, one after another, to a new file; nothing is encoded."""
    part = path.with_name(f"part-{path.name}")
    with av.open(str(clip)) as source, av.open(str(part), "w") as target:
        given = source.streams.video[0]
        stream = target.add_stream_from_template(given)
        packets = [packet for packet in source.demux(given) if packet.size]
        base, rate = given.time_base, given.average_rate
        ticks = round(len(packets) / (rate or FPS) / base)
        loop = [(bytes(packet), packet.pts, packet.dts, packet.is_keyframe) for packet in packets]
        for again, (content, pts, dts, key) in itertools.product(range(times), loop):
            packet = av.Packet(content)
            packet.stream, packet.time_base, packet.is_keyframe = stream, base, key
            packet.pts, packet.dts = pts + again * ticks, dts + again * ticks
            target.mux(packet)
    part.replace(path)
    return path


def _encode(path: Path, size: tuple[int, int], frames: int) -> None:
    with av.open(str(path), "w") as target:
        stream = target.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.bit_rate = round(BIT_RATE * size[0] * size[1] / (1920 * 1080))
        stream.gop_size, stream.max_b_frames = FPS, 0
        stream.options = {"preset": "veryfast", "tune": "zerolatency"}
        stream.time_base = Fraction(1, FPS)
        for number, picture in enumerate(pictures(size, frames)):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            target.mux(stream.encode(frame))
        target.mux(stream.encode())


def pictures(size: tuple[int, int], frames: int) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) uint8 RGB: figures walk to and fro, the background pans, and there is sensor noise."""
    width, height = size
    random = np.random.default_rng(0)
    scene = _texture(random, (2 * width, height))
    grain = random.normal(0, 2, (height, width, 1)).astype(np.float32)
    for number in range(frames):
        phase = 2 * np.pi * number / frames
        left = round(width / 4 * (1 - np.cos(phase)))
        picture = np.ascontiguousarray(scene[:, left : left + width])
        for figure in range(FIGURES):
            _draw_figure(picture, figure, phase)
        picture += np.roll(grain, 7 * number, axis=0)
        yield picture.clip(0, 255).astype(np.uint8)


def _texture(random: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Noise of several scales, as in a natural scene: (H, W, 3) float32."""
    total = np.full((size[1], size[0], 3), 110, np.float32)
    for cells, strength in ((6, 50), (24, 25), (96, 12), (384, 5)):
        noise = random.normal(0, strength, (cells, 2 * cells, 3)).astype(np.float32)
        total += cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC)
    return total


def _draw_figure(picture: np.ndarray, figure: int, phase: float) -> None:
    """Draw a head, a trunk, two arms and two legs that swing."""
    height, width = picture.shape[:2]
    tall = height * (0.3 + 0.05 * figure)
    x = width * (0.5 + 0.4 * np.sin(phase + figure)) * (0.4 + 0.2 * figure) % width
    y = height * 0.5 + height * 0.05 * np.sin(2 * phase + figure)
    thick, colour = max(1, round(tall / 12)), tuple(40.0 + 30 * ((figure + c) % 6) for c in range(3))
    swing = 0.15 * tall * np.sin(4 * phase + figure)
    hip = (x, y + 0.1 * tall)
    limbs = [((x, y - 0.25 * tall), hip), ((x, y - 0.2 * tall), (x - 0.1 * tall + swing, y + 0.05 * tall)),
             ((x, y - 0.2 * tall), (x + 0.1 * tall - swing, y + 0.05 * tall)),
             (hip, (x - swing, y + 0.5 * tall)), (hip, (x + swing, y + 0.5 * tall))]  # fmt: skip
    for start, end in limbs:
        cv2.line(picture, *(tuple(map(round, point)) for point in (start, end)), colour, thick, cv2.LINE_AA)
    cv2.circle(picture, (round(x), round(y - 0.38 * tall)), thick, colour, -1, cv2.LINE_AA)
