"""Decides which detection continues which track, for many streams at once, by the overlap of their boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment


def pairs_within_streams(
    track_counts: Sequence[int], detection_counts: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of a track and a detection that belong to the same stream.

    Args:
        track_counts: (S,), the number of tracks of each stream. Tracks are numbered in the order of streams.
        detection_counts: (S,), the same for detections.

    Returns:
        The track (P,) and the detection (P,) of each pair.
    """
    if len(track_counts) == 1:
        tracks, detections = track_counts[0], detection_counts[0]
        return np.arange(tracks).repeat(detections), np.tile(np.arange(detections), tracks)
    partners = np.repeat(detection_counts, track_counts)  # (T,): number of detections that a track pairs with
    tracks_of_pairs = np.arange(len(partners)).repeat(partners)
    first = np.repeat(np.cumsum(detection_counts) - detection_counts, track_counts)  # (T,): the first of them
    offset = first - (np.cumsum(partners) - partners)  # (T,): from the number of a pair to its detection
    return tracks_of_pairs, np.arange(len(tracks_of_pairs)) + offset.repeat(partners)


def assign(
    track_of: np.ndarray,
    tracks: np.ndarray,
    detections: np.ndarray,
    overlaps: np.ndarray,
    allowed: np.ndarray,
) -> None:
    """Choose among the allowed pairs those with the largest sum of overlaps; each track and detection once.

    Args:
        track_of: (N,), the track of each detection. Written in place, for the chosen pairs only.
        tracks: (P,), the track of each pair.
        detections: (P,), the detection of each pair.
        overlaps: (P,), more than 0 where a pair is allowed.
        allowed: (P,) bool.
    """
    tracks, detections, overlaps = tracks[allowed], detections[allowed], overlaps[allowed]
    if not len(tracks):
        return
    unique = (np.bincount(tracks)[tracks] == 1) & (np.bincount(detections)[detections] == 1)
    track_of[detections[unique]] = tracks[unique]
    if unique.all():
        return
    tracks, detections, overlaps = tracks[~unique], detections[~unique], overlaps[~unique]
    row_tracks, rows = np.unique(tracks, return_inverse=True)
    column_detections, columns = np.unique(detections, return_inverse=True)
    table = np.zeros((len(row_tracks), len(column_detections)))
    table[rows, columns] = overlaps
    chosen_rows, chosen_columns = linear_sum_assignment(table, maximize=True)
    real = table[chosen_rows, chosen_columns] > 0  # the rest are pairs that are not allowed
    track_of[column_detections[chosen_columns[real]]] = row_tracks[chosen_rows[real]]
