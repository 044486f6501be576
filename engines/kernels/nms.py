"""Non-maximum suppression on a device, for all images of a batch at once.

The kernel gives what `images.boxes.nms` gives, OpenCV's NMSBoxesBatched: float64 areas, float32 overlaps.

There is no version of PyTorch's operations. Greedy suppression is a chain of decisions: with operations on
whole tensors it takes an unknown number of rounds over all pairs, and the host would have to check after each
whether more are needed. Where the kernel cannot run, the host suppresses after it has downloaded the
candidates, for which it waits anyway.
"""

from __future__ import annotations

import numpy as np
import torch

from engines.device.streams import Stream
from engines.errors import EngineError
from engines.kernels.nvrtc import kernel_for

MAX_BOXES = 1024  # of an image: a thread each, all in one block
WARP = 32

# The structure `Parameters` of kernels/nms.cu.
PARAMETERS = np.dtype(
    [
        ("boxes", np.uintp),
        ("scores", np.uintp),
        ("classes", np.uintp),
        ("kept", np.uintp),
        ("count", np.int32),
        ("max_iou", np.float32),
    ],
    align=True,
)


def suppress(
    boxes: torch.Tensor, scores: torch.Tensor, classes: torch.Tensor, max_iou: float, stream: Stream
) -> torch.Tensor | None:
    """Which boxes greedy suppression within each class keeps: (B, M) bool, exact.

    None where the kernel cannot run: on the CPU, or without NVRTC.

    Args:
        boxes: (B, M, 4) float32 x0 y0 x1 y1, best first; M at most 1024.
        scores: (B, M) float32; rows with a score of 0 or less are padding, and are not kept.
        classes: (B, M) int; boxes of different classes never suppress each other.
        max_iou: a box is dropped if it overlaps a kept one by more.
        stream: the stream on which the tensors were made.

    Raises:
        EngineError: there are more boxes an image, or CUDA refuses the launch.
    """
    images, count = scores.shape
    if count > MAX_BOXES:
        raise EngineError(
            f"{count} boxes an image, at most {MAX_BOXES} can be suppressed; pass the best {MAX_BOXES}"
        )
    kernel = kernel_for(boxes, "nms", PARAMETERS)
    if kernel is None:
        return None
    with stream.use():
        given = (boxes.float().contiguous(), scores.float().contiguous(), classes.int().contiguous())
        kept = torch.empty_like(given[1], dtype=torch.bool)
        if not kept.numel():
            return kept
        params = np.zeros((), PARAMETERS)
        params[()] = (*(tensor.data_ptr() for tensor in (*given, kept)), count, max_iou)
        # `given` is dropped before the kernel runs, but PyTorch reuses its memory only after it, on this
        # stream.
        kernel.launch((images, 1, 1), (-(-count // WARP) * WARP, 1, 1), params, stream.handle)
        return kept
