"""Detectors' candidates on a device: the best of all cells, in tensors of fixed shapes.

How many cells are above a score is known on the device alone, and to ask it the host would have to wait. So
the best ones of each image are taken, always as many, and those below the score get the score 0, which marks
rows that only fill up. A person lies in tens of cells above the usual scores: the 1024 best hold a crowd.
"""

from __future__ import annotations

import torch

from engines.device.streams import Stream
from engines.kernels.nms import MAX_BOXES, suppress


def best(scores: torch.Tensor, min_score: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores (B, M) float32 and cells (B, M) of the best of scores (B, cells); M is `MAX_BOXES`, or all."""
    scores = scores.float()
    found = scores.where(scores >= min_score, 0).topk(min(MAX_BOXES, scores.shape[1]), dim=1)
    return found.values, found.indices


def take(values: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """(B, M, V): the values (B, cells, V) of cells (B, M)."""
    return values.gather(1, cells[:, :, None].expand(-1, -1, values.shape[2]))


def suppressed(
    boxes: torch.Tensor, scores: torch.Tensor, classes: torch.Tensor, max_iou: float, stream: Stream | None
) -> dict[str, torch.Tensor]:
    """What `codecs.detections.finish` needs: candidates (B, M, …), best first, and where a kernel runs
    which of them to keep.

    Args:
        boxes: (B, M, 4) float32.
        scores: (B, M) float32; rows of score 0 only fill up.
        classes: (B, M) int64.
        max_iou: of two boxes of a class that overlap more, the better one stays.
        stream: the current one, on which the tensors were made.
    """
    assert stream is not None  # whoever has tensors has a stream
    reduced = {"boxes": boxes, "scores": scores, "classes": classes}
    kept = suppress(boxes, scores, classes, max_iou, stream)
    return reduced if kept is None else reduced | {"kept": kept}
