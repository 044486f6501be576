"""Which track a detection belongs to, of many streams at once: by pairs that overlap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment


def pairs(tracks: Sequence[int], found: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """All pairs (P,) of a track and a detection of one stream, by how many of each the streams have."""
    if len(tracks) == 1:
        return np.arange(tracks[0]).repeat(found[0]), np.tile(np.arange(found[0]), tracks[0])
    each = np.repeat(found, tracks)  # (T,): with how many detections a track makes pairs
    rows = np.arange(len(each)).repeat(each)
    first = np.repeat(np.cumsum(found) - found, tracks)  # (T,): the first of them
    columns = np.arange(len(rows)) + (first - (np.cumsum(each) - each)).repeat(each)
    return rows, columns


def match(
    row_of: np.ndarray, rows: np.ndarray, columns: np.ndarray, overlaps: np.ndarray, may: np.ndarray
) -> None:
    """Of the pairs that may be, those with the largest sum of overlaps, each track and detection in one.

    Args:
        row_of: (N,), the track of each detection, which is written there.
        rows: (P,), the tracks of the pairs.
        columns: (P,), their detections.
        overlaps: (P,), more than 0 where a pair may be.
        may: (P,) bool.
    """
    rows, columns, overlaps = rows[may], columns[may], overlaps[may]
    if not len(rows):
        return
    alone = (np.bincount(rows)[rows] == 1) & (np.bincount(columns)[columns] == 1)  # nothing to decide
    row_of[columns[alone]] = rows[alone]
    if alone.all():
        return
    rows, columns, overlaps = rows[~alone], columns[~alone], overlaps[~alone]
    tracks, row = np.unique(rows, return_inverse=True)
    detections, column = np.unique(columns, return_inverse=True)
    table = np.zeros((len(tracks), len(detections)))
    table[row, column] = overlaps
    picked, at = linear_sum_assignment(table, maximize=True)
    real = table[picked, at] > 0
    row_of[detections[at[real]]] = tracks[picked[real]]
