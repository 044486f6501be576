"""The settings of `posestream profile`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SAMPLE_HZ = 20.0  # a higher rate costs more than 2 % of the run's speed


@dataclass(frozen=True)
class Settings:
    """What to measure, and how."""

    graph: str | Path  # the name of a ready graph, or a file
    sources: Mapping[str, str]  # stream: file or URL
    changes: Mapping[str, Any] = field(default_factory=dict)  # node.option: value
    streams: int | None = None  # repeat the sources until there are so many streams
    seconds: float = 20.0
    warmup_s: float = 3.0
    processes: int | None = None  # None: as the graph says
    live: bool = False
    max_age_s: float | None = None  # live: no stage begins to work on older frames
    sample_hz: float = SAMPLE_HZ  # 0: no flame graph, and no lines at which a stage stands still
    bound: bool = True
    trace: Path | None = None  # where to write the Chrome trace
    command: str = ""
    swept: Mapping[str, str] = field(default_factory=dict)  # what a sweep set for this measurement
