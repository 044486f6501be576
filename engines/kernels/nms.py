"""Non-maximum suppression on a device, for all images of a batch at once.

The kernel gives what `images.boxes.nms` does, OpenCV's NMSBoxesBatched: float64 areas, float32 overlaps.

It has no twin of PyTorch's operations. Greedy suppression is a chain of decisions: as operations on whole
tensors it takes an unknown number of rounds over all pairs, and the host would have to look at each. Where
the kernel cannot run, the host suppresses once it has the candidates, which it waits for in any case.
"""

from __future__ import annotations

import numpy as np
import torch

from engines.device.streams import Stream
from engines.errors import EngineError
from engines.kernels.nvrtc import kernel_for

MOST = 1024  # boxes of an image: the threads of a block
WARP = 32

# The structure of kernels/nms.cu.
WORK = np.dtype(
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
        scores: (B, M) float32; rows of 0 and less are padding, and not kept.
        classes: (B, M) int; boxes of different classes never suppress each other.
        max_iou: a box goes if it overlaps a kept one by more than this.
        stream: of their device, which they were made on.

    Raises:
        EngineError: there are more boxes an image, or CUDA refuses.
    """
    images, count = scores.shape
    if count > MOST:
        raise EngineError(f"{count} boxes an image, at most {MOST} can be suppressed; give the best ones")
    fused = kernel_for(boxes, "nms", WORK)
    if fused is None:
        return None
    with stream.use():
        given = (boxes.float().contiguous(), scores.float().contiguous(), classes.int().contiguous())
        kept = torch.empty_like(given[1], dtype=torch.bool)
        if not kept.numel():
            return kept
        work = np.zeros((), WORK)
        work[()] = (*(tensor.data_ptr() for tensor in (*given, kept)), count, max_iou)
        # Until it has run the memory of `given` stays theirs: PyTorch reuses it on this stream alone, later.
        fused.launch((images, 1, 1), (-(-count // WARP) * WARP, 1, 1), work, stream.handle)
        return kept
