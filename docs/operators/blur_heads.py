"""An operator of your own with a CUDA kernel of its own: it blurs heads. `docs/gpu-operators.md` explains it.

    blur: {op: "blur_heads:BlurHeads", after: pose}

Start posestream in the folder of this file. Frames on the host are blurred with NumPy. Frames on a GPU are
blurred there, by the kernel in `blur_heads.cu`, through pycuda or CuPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from gpu_kernels import CupyKernel, PycudaKernel
from pydantic import Field

from engines.contracts.skeletons import load_skeleton
from engines.device.image import DeviceImage
from pipeline.operator import Operator
from pipeline.packet import Instances, Packet

CELLS = 8  # squares of a mosaic, across and down
HEADS = 32  # in one launch

# The radius of a head in multiples of the distance between two of its keypoints. A circle of 0.2 m around
# the eyes covers a head with hair or a cap; ears are 0.15 m apart, eyes 0.06 m, and nose and ear 0.12 m.
RADIUS = {
    ("left_ear", "right_ear"): 1.3,
    ("nose", "left_ear"): 1.6,
    ("nose", "right_ear"): 1.6,
    ("left_eye", "right_eye"): 3.2,
}
NAMES = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")
OF_BOX = 0.1  # at least this part of the box's longer side: a person is about 9 radii tall
TOP_OF_BOX = 0.3  # without keypoints, the radius is this part of the box's shorter side

# The structures of blur_heads.cu, where the fields are explained.
HEAD = np.dtype([(name, np.int32) for name in ("x", "y", "radius", "left", "top", "cell")], align=True)
CHANNEL = np.dtype(
    [
        ("from", np.uintp),
        ("to", np.uintp),
        ("from_pitch", np.int32),
        ("to_pitch", np.int32),
        ("step", np.int32),
        ("width", np.int32),
        ("height", np.int32),
        ("shift", np.int32),
    ],
    align=True,
)
PARAMETERS = np.dtype([("channels", CHANNEL, 3), ("count", np.int32), ("heads", HEAD, HEADS)], align=True)

MinScore = Annotated[float, Field(description="keypoints of the head with a lower score are not used")]
Library = Annotated[Literal["pycuda", "cupy"], Field(description="what launches the kernel on a GPU")]


class BlurHeads(Operator):
    """Blur the head of every instance, as a mosaic of 8 x 8 squares.

    needs     image      uint8   (H, W, 3) RGB
              boxes      float32 (N, 4)     x0, y0, x1, y1 in px of the frame
              keypoints  float32 (N, K, 2)  px of the frame; NaN where none was found
              keypoint_scores  float32 (N, K)  optional
    provides  image      the frame with blurred heads: on the GPU if it came on the GPU, else RGB

    A head without two good keypoints is taken to be at the top of the box. A mosaic is used because a smooth
    blur can partly be undone. It hides faces from viewers; whoever is not detected is not blurred.
    """

    needs = ("image", "boxes", "keypoints")
    provides = ("image",)

    def __init__(self, min_score: MinScore = 0.3, library: Library = "pycuda"):
        self.min_score, self.library = min_score, library
        self._kernels: dict[str, PycudaKernel | CupyKernel] = {}  # by device

    def process(self, packets: list[Packet]) -> list[Packet]:
        """Blur the heads of each frame; frames without instances pass unchanged."""
        return [self._blurred(packet) if packet.instances else packet for packet in packets]

    def _blurred(self, packet: Packet) -> Packet:
        heads = heads_of(packet.instances, self.min_score)
        picture = packet.picture
        if isinstance(picture, DeviceImage):
            name = picture.device.name
            if name not in self._kernels:
                kind = PycudaKernel if self.library == "pycuda" else CupyKernel
                self._kernels[name] = kind("blur_heads", PARAMETERS.itemsize, picture.device)
            return packet.replace(picture=blur_on_device(picture, heads, self._kernels[name]))
        (blurred,) = blur_on_host([packet.image], heads)
        return packet.replace(picture=blurred)


def heads_of(people: Instances, min_score: float) -> np.ndarray:
    """A circle and a mosaic for each head that can be found: (at most N,) of `HEAD`."""
    names = load_skeleton(people.skeleton).keypoints if people.skeleton else ()
    columns = {name: names.index(name) for name in NAMES if name in names}
    good = np.isfinite(people.keypoints).all(axis=2)  # (N, K)
    if "keypoint_scores" in people:
        good &= people.keypoint_scores >= min_score
    heads = []
    for box, keypoints, seen in zip(people.boxes, people.keypoints, good, strict=True):
        points = {name: keypoints[i] for name, i in columns.items() if seen[i]}
        circle = _circle_of_keypoints(points, box) or _circle_in_box(box)
        if circle is not None:
            heads.append(head_at(*circle))
    return np.array(heads, HEAD)


def _circle_of_keypoints(points: dict[str, np.ndarray], box: np.ndarray) -> tuple[float, float, float] | None:
    """Centre and radius by the keypoints of a head; None without two that give its size."""
    radii = [
        factor * float(np.linalg.norm(points[one] - points[other]))
        for (one, other), factor in RADIUS.items()
        if one in points and other in points
    ]
    if not radii:
        return None
    if np.isfinite(box).all():
        radii.append(OF_BOX * float(max(box[2:] - box[:2])))
    x, y = np.mean(list(points.values()), axis=0).tolist()
    return x, y, max(radii)


def _circle_in_box(box: np.ndarray) -> tuple[float, float, float] | None:
    """Centre and radius at the top of a box; None without a box."""
    if not np.isfinite(box).all():
        return None
    x0, y0, x1, y1 = box.tolist()
    radius = TOP_OF_BOX * min(x1 - x0, y1 - y0)
    return (x0 + x1) / 2, y0 + radius, radius


def head_at(x: float, y: float, radius: float) -> tuple[int, ...]:
    """A `HEAD`: a circle in whole px, and the mosaic that covers it."""
    centre_x, centre_y = (round(min(max(value, -1e6), 1e6)) for value in (x, y))
    whole = max(1, round(min(radius, 1e4)))
    cell = 2 * -(-(2 * whole + 2) // (2 * CELLS))
    return centre_x, centre_y, whole, (centre_x - whole) & ~1, (centre_y - whole) & ~1, cell


def mosaic(source: np.ndarray, to: np.ndarray, heads: np.ndarray, shift: int = 0) -> None:
    """Blur heads in a channel on the host: what blur_heads.cu does, in the same arithmetic.

    Args:
        source: (h, w) uint8.
        to: (h, w) uint8, a copy of `source`, that is changed.
        heads: (N,) of `HEAD`; where heads overlap, the last one decides.
        shift: 1 if the channel has one sample for 2 x 2 px, else 0.
    """
    height, width = source.shape
    for x, y, radius, left, top, cell in (head.tolist() for head in heads):
        side, left, top = cell >> shift, left >> shift, top >> shift
        for i in range(CELLS * CELLS):
            x0, y0 = left + side * (i % CELLS), top + side * (i // CELLS)
            columns = slice(max(x0, 0), max(min(x0 + side, width), 0))
            rows = slice(max(y0, 0), max(min(y0 + side, height), 0))
            square = source[rows, columns]
            if square.size:
                mean = (int(square.sum(dtype=np.int64)) + square.size // 2) // square.size
                down, right = np.ogrid[rows, columns]
                inside = ((right << shift) - x) ** 2 + ((down << shift) - y) ** 2 <= radius**2
                to[rows, columns][inside] = mean


def blur_on_host(planes: Sequence[np.ndarray], heads: np.ndarray) -> list[np.ndarray]:
    """Copies of planes, RGB (H, W, 3) alone or those of NV12 or I420, with blurred heads."""
    copies = [plane.copy() for plane in planes]  # others may hold the frame
    for n, (source, to) in enumerate(zip(planes, copies, strict=True)):
        if source.ndim == 2:
            mosaic(source, to, heads, shift=int(n > 0))
        else:
            for i in range(source.shape[2]):
                mosaic(source[..., i], to[..., i], heads, shift=int(n > 0))
    return copies


def blur_on_device(image: DeviceImage, heads: np.ndarray, kernel: PycudaKernel | CupyKernel) -> DeviceImage:
    """The image with blurred heads, in memory of its own: other stages may be reading `image`.

    All work is queued on the kernel's stream; the host does not wait.
    """
    stream = kernel.stream
    with stream.use(), image.export(stream) as planes:  # the stream waits until the frame is complete
        copies = image.copied_planes(stream)
        for start in range(0, len(heads), HEADS):
            work = parameters(kernel.views(planes), kernel.views(copies), heads[start : start + HEADS])
            kernel.launch((CELLS * CELLS, int(work["count"]), 3), (32, 8, 1), work)
    return DeviceImage(copies, image.matrix, stream.record(), image.device)


def parameters(planes: list[dict], copies: list[dict], heads: np.ndarray) -> np.ndarray:
    """The kernel's `PARAMETERS` for at most `HEADS` heads.

    Args:
        planes: the planes of a frame, as their array interfaces describe them.
        copies: the same planes in memory that may be changed.
        heads: (N,) of `HEAD`.
    """
    work = np.zeros((), PARAMETERS)
    channels = zip(_channels(planes), _channels(copies), strict=True)
    for i, ((source, from_pitch, step, size, shift), (to, to_pitch, *_)) in enumerate(channels):
        work["channels"][i] = (source, to, from_pitch, to_pitch, step, *size, shift)
    work["count"] = len(heads)
    work["heads"][: len(heads)] = heads
    return work


def _channels(planes: list[dict]) -> list[tuple[int, int, int, tuple[int, int], int]]:
    """Address, pitch, step, (width, height) and shift of each of the three channels."""
    found = []
    for n, plane in enumerate(planes):
        height, width, *interleaved = plane["shape"]
        samples = interleaved[0] if interleaved else 1
        # Without strides the array is contiguous.
        pitch, step, *_ = plane.get("strides") or (width * samples, samples)
        address = plane["data"][0]
        found += [(address + i, pitch, step, (width, height), int(n > 0)) for i in range(samples)]
    return found
