"""The best candidates of a detector whose outputs are tensors, in tensors of fixed shapes.

Only the device knows how many cells score above the threshold, and asking it would make the host wait. So a
fixed number of the best cells of each image is taken, and those below the threshold get score 0, which marks
padding. A person covers tens of cells above the usual thresholds: the 1024 best hold a crowd.
"""

from __future__ import annotations

import torch

from engines.codecs.base import DetectionRequest
from engines.kernels.nms import MAX_BOXES, suppress


def best(scores: torch.Tensor, min_score: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The best of scores (B, cells): scores (B, M) float32, cells (B, M); M is `MAX_BOXES` or all cells."""
    scores = scores.float()
    found = scores.where(scores >= min_score, 0).topk(min(MAX_BOXES, scores.shape[1]), dim=1)
    return found.values, found.indices


def take(values: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """(B, M, V): the values (B, cells, V) of cells (B, M)."""
    return values.gather(1, cells[:, :, None].expand(-1, -1, values.shape[2]))


def suppressed(
    boxes: torch.Tensor, scores: torch.Tensor, classes: torch.Tensor, request: DetectionRequest
) -> dict[str, torch.Tensor]:
    """Candidates (B, M, …), best first, as `codecs.detections.Reduced`; with `kept` where our kernel can run.

    Args:
        boxes: (B, M, 4) float32.
        scores: (B, M) float32; tensors are padded with rows of score 0.
        classes: (B, M) int64.
        request: `nms_iou`, and the stream on which the tensors were made.
    """
    assert request.stream is not None  # outputs that are tensors come with a stream
    reduced = {"boxes": boxes, "scores": scores, "classes": classes}
    kept = suppress(boxes, scores, classes, request.nms_iou, request.stream)
    return reduced if kept is None else reduced | {"kept": kept}
