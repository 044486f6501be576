"""Numbers of a profile as text, and values that several views derive from it."""

from __future__ import annotations

import math

from pipeline.measurement.faults import Fault, name_some
from pipeline.measurement.stage_stats import Shares
from tools.profiling.document import Profile, Stage

STATES = {
    "computing": "its own threads compute",
    "waiting": "at work, but waits for an engine's threads, a device, a lock or a core",
    "blocked": "waits for room in the queue of the next stage",
    "idle": "has nothing to do",
}


def figure(value: float | None, digits: int = 3) -> str:
    """Format a number with so many significant digits, at most two decimals; None gives an empty text."""
    if value is None or not math.isfinite(value):
        return ""
    if value == 0:
        return "0"
    decimals = min(max(digits - 1 - math.floor(math.log10(abs(value))), 0), 2)
    return f"{value:,.{decimals}f}" if abs(value) >= 0.005 else "<0.01"


def figures(*values: float | None, digits: int = 2) -> str:
    """Format several numbers, as in 3.1 / 9.0 / 12."""
    return " / ".join(figure(value, digits) for value in values)


def percent(share: float | None) -> str:
    """Format a share of 0..1 as whole percent, below 1 % with one decimal."""
    if share is None or not math.isfinite(share):
        return ""
    if share and abs(share) < 0.00095:
        return "<0.1 %"
    return f"{100 * share:.1f} %" if share and abs(share) < 0.0095 else f"{100 * share:.0f} %"


def count(n: int, thing: str) -> str:
    """Format a count of things: 1 stream, 12 streams."""
    return f"{n:,} {thing if n == 1 else thing + 's'}"


def shares(stage: Stage) -> dict[str, float]:
    """How a stage spent its time, by the names in `STATES`."""
    spent = Shares(stage.busy, min(stage.computing, stage.busy), stage.blocked, stage.idle)
    return {state: getattr(spent, state) for state in STATES}


def work_ms(stage: Stage, seconds: float) -> float:
    """Time at work per packet, in ms of one worker."""
    return 1e3 * stage.busy * stage.workers * seconds / max(stage.packets_in or stage.packets_out, 1)


def cpu_ms(stage: Stage, seconds: float) -> float:
    """Processor time of the stage's own threads per packet, in ms."""
    return 1e3 * stage.cores * seconds / max(stage.packets_in or stage.packets_out, 1)


def cpu_per_frame_ms(profile: Profile) -> float:
    """Processor time of the run's processes per finished frame, in ms."""
    return 1e3 * profile.use.cores / profile.fps if profile.fps else 0.0


def age_p99_ms(profile: Profile) -> float:
    """The p99 of the age, of the stream whose frames are oldest."""
    return max((stream.age_p99_ms for stream in profile.streams), default=0.0)


def dropped(profile: Profile) -> int:
    """Packets that were dropped in the whole run, for whatever reason."""
    return sum(profile.flow.dropped.values())


def closed_sum(profile: Profile) -> str:
    """The flow as a sum, and whether it adds up."""
    flow, lost = profile.flow, dropped(profile)
    sign = "=" if flow.read == flow.finished + lost + flow.in_flight else "≠"
    parts = f"{flow.finished:,} finished + {lost:,} dropped + {flow.in_flight:,} in flight"
    if flow.closed:
        return f"{flow.read:,} read {sign} {parts}"
    named = name_some([Fault(it.stage, it.stream, it.kind, it.packets) for it in flow.unaccounted])
    return f"{flow.read:,} read {sign} {parts}: packets are unaccounted for{named and f'; {named}'}"


def measured(profile: Profile) -> str:
    """How much was measured: 3,438 frames of 4 live streams in 30.0 s and so on."""
    streams = count(len(profile.streams), "live stream" if profile.live else "stream")
    return (
        f"{count(profile.frames, 'frame')} of {streams} in {figure(profile.seconds)} s after "
        f"{figure(profile.warmup_s, 2)} s of warm-up, {figure(profile.fps)} frames/s in "
        f"{profile.processes} {'process' if profile.processes == 1 else 'processes'}"
    )


def when(profile: Profile) -> str:
    """When it was measured: 2026-01-14 09:31 UTC."""
    return f"{profile.at[:10]} {profile.at[11:16]} UTC"


def named_settings(profile: Profile) -> str:
    """What a sweep set for this measurement: streams=4 batch=8."""
    return " ".join(f"{name}={value}" for name, value in profile.settings.items())


def best(profiles: list[Profile]) -> Profile:
    """The point of a sweep with the most frames/s."""
    return max(profiles, key=lambda profile: profile.fps)
