"""How figures are written in all views of a profile."""

from __future__ import annotations

import math

from pipeline.measurement.faults import Fault
from tools.profiling.document import Profile, Stage

STATES = {
    "computing": "its own threads compute",
    "waiting": "at work, but for an engine's threads, a device, a lock, a processor",
    "blocked": "waits for room behind it",
    "idle": "has nothing to do",
}


def figure(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, whole from a hundred on; nothing where there is none."""
    if value is None or not math.isfinite(value):
        return ""
    if value == 0:
        return "0"
    decimals = min(max(digits - 1 - math.floor(math.log10(abs(value))), 0), 2)
    return f"{value:,.{decimals}f}" if abs(value) >= 0.005 else "<0.01"


def figures(*values: float | None, digits: int = 2) -> str:
    """Several of them, as in 3.1 / 9.0 / 12."""
    return " / ".join(figure(value, digits) for value in values)


def percent(share: float | None) -> str:
    """A share of 0..1, to the whole percent; below one, a digit more."""
    if share is None or not math.isfinite(share):
        return ""
    if share and abs(share) < 0.00095:
        return "<0.1 %"
    return f"{100 * share:.1f} %" if share and abs(share) < 0.0095 else f"{100 * share:.0f} %"


def count(n: int, thing: str) -> str:
    """So many of a thing: 1 stream, 12 streams."""
    return f"{n:,} {thing if n == 1 else thing + 's'}"


def shares(stage: Stage) -> dict[str, float]:
    """How a stage spent its time, by `STATES`; they add up to 1, unless the profile's own do not."""
    computing = min(stage.computing, stage.busy)
    return {
        "computing": computing,
        "waiting": stage.busy - computing,
        "blocked": stage.blocked,
        "idle": stage.idle,
    }


def work_ms(stage: Stage, seconds: float) -> float:
    """How long it was at work for a packet, in ms of one worker."""
    return 1e3 * stage.busy * stage.workers * seconds / max(stage.packets_in or stage.packets_out, 1)


def cpu_ms(stage: Stage, seconds: float) -> float:
    """Processor time of its own threads for a packet, in ms."""
    return 1e3 * stage.cores * seconds / max(stage.packets_in or stage.packets_out, 1)


def cpu_per_frame_ms(profile: Profile) -> float:
    """Processor time of the run's processes for a finished frame, in ms."""
    return 1e3 * profile.use.cores / profile.fps if profile.fps else 0.0


def age_p99_ms(profile: Profile) -> float:
    """The p99 of the stream whose frames are oldest."""
    return max((stream.age_p99_ms for stream in profile.streams), default=0.0)


def dropped(profile: Profile) -> int:
    """Packets of the whole run that were lost, for whatever reason."""
    return sum(profile.flow.dropped.values())


def closed_sum(profile: Profile) -> str:
    """The flow as a sum, and whether it comes out even."""
    flow = profile.flow
    said = f"{flow.finished:,} finished + {dropped(profile):,} dropped + {flow.in_flight:,} in flight"
    if flow.closed:
        return f"{flow.read:,} read = {said}"
    faults = [Fault(one.stage, one.stream, one.kind, one.packets).found for one in flow.unaccounted]
    return f"{flow.read:,} read ≠ {said}: packets are unaccounted for" + "".join(f"; {one}" for one in faults)


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
    """What a sweep set for this run: streams=4 batch=8."""
    return " ".join(f"{name}={value}" for name, value in profile.settings.items())


def best(profiles: list[Profile]) -> Profile:
    """The point of a sweep that gave the most frames a second."""
    return max(profiles, key=lambda profile: profile.fps)
