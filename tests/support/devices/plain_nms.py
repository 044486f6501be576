"""Overlap and suppression of boxes in plain Python, as the reference for tests."""


def iou_by_hand(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union > 0 else 0.0


def nms_by_hand(boxes, scores, classes, max_iou):
    """Greedy suppression in plain Python."""
    kept = []
    for row in sorted(range(len(boxes)), key=lambda row: -scores[row]):
        rivals = [other for other in kept if classes[other] == classes[row]]
        if all(iou_by_hand(boxes[row], boxes[other]) <= max_iou for other in rivals):
            kept.append(row)
    return kept
