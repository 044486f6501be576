"""The document of a profile: `posestream profile --json` writes it, and every view is made from it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import ConfigError


class Part(BaseModel):
    """Base class of all parts of the document."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Machine(Part):
    """The machine on which it was measured."""

    processor: str
    cores: int
    memory_mb: float
    system: str
    python: str
    gpus: list[str] = []
    driver: str | None = None  # of the GPUs
    versions: dict[str, str] = {}  # package: version
    commit: str | None = None  # of posestream, if it runs from a checkout


class GpuUse(Part):
    """What NVML says of a GPU during the measurement; None where the GPU does not report it."""

    name: str
    busy: float | None = None  # mean share of the time in which a kernel ran
    decoder: float | None = None  # mean share of the time in which its video decoder worked
    memory_mb: float | None = None  # peak, of all processes
    power_w: float | None = None  # mean
    clock_mhz: float | None = None  # mean, of its SMs
    throttling: dict[str, float] = {}  # reason: share of the time
    joules: float | None = None  # energy of the whole measurement
    joules_per_1000_frames: float | None = None


class Moment(Part):
    """One sample of the machine."""

    at_s: float  # since measuring began
    cores: float  # kept busy by the run's processes
    cores_all: float | None  # kept busy by all processes of the machine
    memory_mb: float  # resident, of the run's processes
    fps: float  # frames that left the graph since the sample before


class Use(Part):
    """What the run used of the machine."""

    cores: float  # kept busy by the run's processes, mean
    cores_all: float | None  # kept busy by all processes, mean; far above `cores`, other programs ran, too
    memory_mb: float  # resident, of the run's processes together, peak
    memory_before_mb: float  # the same before the operators were opened
    starved: float | None = None  # threads that were ready to run and had no core, mean
    lock_wait_ms: float | None = None  # how long a thread waits for Python's interpreter lock, mean
    gpus: list[GpuUse] = []
    moments: list[Moment] = []


class Stage(Part):
    """A stage; durations in ms, shares of the time over all of its workers, 0..1."""

    name: str
    op: str
    workers: int
    packets_in: int
    packets_out: int
    packets_per_s: float
    busy: float  # at work
    # Part of `busy`: its own threads computed. The rest waited: for a device, a disk, a lock, a sleep.
    computing: float
    blocked: float  # waited for room behind it
    idle: float  # had nothing to do
    cores: float  # kept busy by its own threads
    engine: float  # part of `busy`: inside engine calls
    gpu_ms: float | None = None  # GPU time per packet, by CUDA events
    batches: dict[int, int]  # size: calls
    mean_batch: float
    wait_p50_ms: float  # in the queue
    wait_p95_ms: float
    wait_p99_ms: float
    latency_p50_ms: float  # in the queue and at work
    latency_p95_ms: float
    latency_p99_ms: float
    memory_mb: float | None  # growth of the process while the stage was opened
    mb_per_s: float  # images and arrays that were handed to it; by reference, unless it has a device
    copied_mb_per_s: float | None = None  # what its engines copied to and from a device
    dropped: dict[str, int] = {}  # reason: packets
    counters: dict[str, int] = {}


class Engine(Part):
    """A model as one stage used it."""

    stage: str
    model: str
    file: str
    backend: str
    threads: int
    calls: int
    items: int
    items_per_frame: float
    call_p50_ms: float
    call_p95_ms: float
    ms_per_item: float  # during the run
    gpu_ms_per_item: float | None = None  # by CUDA events


class Edge(Part):
    """An edge; in_flight_before + received = delivered + dropped + in_flight."""

    producer: str
    consumer: str
    received: int
    delivered: int
    in_flight_before: int
    in_flight: int
    dropped: dict[str, int] = {}


class Stream(Part):
    """A stream."""

    name: str
    read: int
    finished: int
    dropped: int
    instances: int
    fps: float
    age_p50_ms: float
    age_p95_ms: float
    age_p99_ms: float


class Unaccounted(Part):
    """Packets of one stream that a stage has swallowed, repeated, invented or reordered."""

    stage: str  # or an edge
    stream: str
    kind: Literal["swallowed", "repeated", "invented", "reordered"]
    packets: int


class Flow(Part):
    """All packets of the whole run, warm-up and end included, along the path to the last stage that finished
    the fewest: read = finished + dropped + in_flight. `unaccounted` has the faults of all stages and edges.
    """

    read: int
    finished: int
    dropped: dict[str, int]  # reason: packets
    in_flight: int  # counted on the edges and in the stages, not calculated
    unaccounted: list[Unaccounted] = []
    closed: bool  # whether the sum adds up, and nothing is unaccounted for


class Alone(Part):
    """A part of the work on a frame, measured with nothing else running."""

    name: str
    ms: float  # one item, on one thread
    per_frame: float  # items per frame

    @property
    def ms_per_frame(self) -> float:
        """Time of this part per frame."""
        return self.ms * self.per_frame


class Bound(Part):
    """The best that decoding and the bare models allow on this machine."""

    parts: list[Alone]
    cores: int
    fps: float  # the lowest of `limits`
    limits: dict[str, float]  # what limits: frames/s
    share: float  # frames/s of the run / fps


Kind = Literal["processor", "stage", "waiting", "sources", "order", "unknown"]


class Place(Part):
    """A line of Python at which a stage stood still inside a call, without computing."""

    stage: str
    where: str  # file:line in function
    line: str  # the line itself
    share: float  # of the stage's time


class Verdict(Part):
    """What limits the run."""

    kind: Kind
    stage: str | None
    said: str  # one sentence
    advice: list[str] = []
    places: list[Place] = []


class Profile(Part):
    """A measured run."""

    document: Literal["posestream-profile/2"] = "posestream-profile/2"
    command: str
    at: str  # UTC, ISO 8601
    graph: str
    settings: dict[str, str] = {}  # what a sweep varied: streams, batch, backend …
    streams_wanted: int
    live: bool
    processes: int
    warmup_s: float
    seconds: float
    frames: int
    fps: float
    flow: Flow
    verdict: Verdict
    bound: Bound | None
    use: Use
    machine: Machine
    stages: list[Stage]  # the source first
    engines: list[Engine]
    edges: list[Edge]
    streams: list[Stream]
    notes: list[str] = []  # remarks on the measurement: that it ended early …
    stacks: dict[str, float] = {}  # "stage;function (file:line);…", innermost last: ms of processor time


def read_profile(path: Path) -> Profile:
    """Read a profile from a JSON file.

    Raises:
        ConfigError: the file cannot be read, or holds no profile of this version.
    """
    try:
        return Profile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the document"
        raise ConfigError(
            f"{path} is not a profile of this version ({place}: {first['msg']}); "
            "write one with: posestream profile … --json FILE"
        ) from None
