"""Non-maximum suppression on a device, for all images of a batch at once.

The kernel gives what `engines.boxes.nms` does, OpenCV's NMSBoxesBatched: float64 areas, float32 overlaps.
Where it cannot run, on the CPU for one, that itself is taken.
"""

from __future__ import annotations

import numpy as np
import torch

from engines.boxes import nms
from engines.device.nvrtc import kernel_for
from engines.device.streams import Stream
from engines.errors import EngineError

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
) -> torch.Tensor:
    """Which boxes greedy suppression within each class keeps: (B, M) bool, exact.

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
    with stream.use():
        if not fused or not scores.numel():
            return _on_host(boxes, scores, classes, max_iou)
        given = (boxes.float().contiguous(), scores.float().contiguous(), classes.int().contiguous())
        kept = torch.empty_like(given[1], dtype=torch.bool)
        work = np.zeros((), WORK)
        work[()] = (*(tensor.data_ptr() for tensor in (*given, kept)), count, max_iou)
        # Until it has run the memory of `given` stays theirs: PyTorch reuses it on this stream alone, later.
        fused.launch((images, 1, 1), (-(-count // WARP) * WARP, 1, 1), work, stream.handle)
        return kept


def _on_host(
    boxes: torch.Tensor, scores: torch.Tensor, classes: torch.Tensor, max_iou: float
) -> torch.Tensor:
    """By the reference itself, image by image; where the tensors lie on a GPU, the host waits for them.

    Greedy suppression is a chain of decisions: as operations on whole tensors it takes an unknown number of
    rounds over all pairs, and the host would have to look at the outcome of each.
    """
    arrays = [tensor.cpu().numpy() for tensor in (boxes, scores, classes)]
    kept = np.zeros(scores.shape, bool)
    for mine, one_boxes, one_scores, one_classes in zip(kept, *arrays, strict=True):
        real = np.flatnonzero(one_scores > 0)
        mine[real[nms(one_boxes[real], one_scores[real], one_classes[real], max_iou)]] = True
    return torch.from_numpy(kept).to(boxes.device)
