"""What a profile says: the document that `posestream profile --json` writes, and all views are made from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import ConfigError


class Part(BaseModel):
    """Base of all parts."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Machine(Part):
    """Where it was measured."""

    processor: str
    cores: int
    memory_mb: float
    system: str
    python: str
    gpus: list[str] = []
    driver: str | None = None  # of the GPUs
    versions: dict[str, str] = {}  # package: version
    commit: str | None = None  # of posestream, where it runs from a checkout


class GpuUse(Part):
    """A GPU while it was measured, by NVML; figures that the board does not tell are None."""

    name: str
    busy: float | None = None  # share of the time in which a kernel ran, mean
    decoder: float | None = None  # likewise of its video decoder
    memory_mb: float | None = None  # most that was in use, by all processes
    power_w: float | None = None  # mean
    clock_mhz: float | None = None  # of its processors, mean
    throttling: dict[str, float] = {}  # reason: share of the time
    joules: float | None = None  # energy, in all
    joules_per_1000_frames: float | None = None


class Moment(Part):
    """One sample of the machine."""

    at_s: float  # since measuring began
    cores: float  # kept busy by the run's processes
    cores_all: float | None  # … by all processes
    memory_mb: float  # resident, of the run's processes
    fps: float  # frames that left the graph since the sample before


class Use(Part):
    """What the run took of the machine."""

    cores: float  # kept busy by the run's processes, mean
    cores_all: float | None  # … by all processes: far above `cores`, somebody else was measured, too
    memory_mb: float  # resident, of all its processes together, most
    memory_before_mb: float  # before the operators were opened
    starved: float | None = None  # threads that were ready to run and had no processor, mean
    lock_wait_ms: float | None = None  # how long a thread that wants to run Python waits for it, mean
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
    computing: (
        float  # of that, its own threads computed; the rest waited: for a device, a disk, a lock, a sleep
    )
    blocked: float  # waited for room behind it
    idle: float  # had nothing to do
    cores: float  # processor time of its own threads, a second
    engine: float  # share of the time inside engine calls, part of `busy`
    gpu_ms: float | None = None  # time on the GPU by its events, a packet
    batches: dict[int, int]  # size: how often
    mean_batch: float
    wait_p50_ms: float  # in the queue
    wait_p95_ms: float
    wait_p99_ms: float
    latency_p50_ms: float  # in the queue and at work
    latency_p95_ms: float
    latency_p99_ms: float
    memory_mb: float | None  # by which the process grew while it was opened
    mb_per_s: float  # of pictures and arrays that were handed to it; by reference, unless it has a device
    copied_mb_per_s: float | None = None  # of these, what engines copied to and from a device
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
    ms_per_item: float  # in the run
    gpu_ms_per_item: float | None = None  # by its events


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
    """All packets of the whole run, warm-up and draining included, on the way to the last stage that finished
    fewest: read = finished + dropped + in_flight. Any other packets are `unaccounted`, on whatever way.
    """

    read: int
    finished: int
    dropped: dict[str, int]  # reason: packets
    in_flight: int  # counted on the edges and in the stages, not calculated
    unaccounted: list[Unaccounted] = []
    closed: bool  # whether it comes out even, and nothing is unaccounted for


class Alone(Part):
    """A part of a frame's work, measured with nothing else running."""

    name: str
    ms: float  # one item, on one thread
    per_frame: float  # items

    @property
    def ms_per_frame(self) -> float:
        """Of a frame."""
        return self.ms * self.per_frame


class Bound(Part):
    """The best that decoding and the bare models allow on this machine."""

    parts: list[Alone]
    cores: int
    fps: float  # the lowest of `limits`
    limits: dict[str, float]  # what limits: frames/s
    share: float  # ours / fps


Kind = Literal["processor", "stage", "waiting", "sources", "order", "unknown"]


class Place(Part):
    """A line of Python at which a stage stood still, neither computing nor waiting for its queues."""

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

    document: Literal["posestream-profile/1"] = "posestream-profile/1"
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
    notes: list[str] = []  # what else is to be known of the measurement: that it ended early …
    stacks: dict[str, float] = {}  # "stage;function (file:line);…", innermost last: ms of processor time


def read_profile(path: Path) -> Profile:
    """The profile in a JSON file.

    Raises:
        ConfigError: there is none.
    """
    try:
        return Profile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the document"
        raise ConfigError(
            f"{path} is no profile of this version ({place}: {first['msg']}); "
            "write one with: posestream profile … --json FILE"
        ) from None
