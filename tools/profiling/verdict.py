"""What limits a run, judged from its figures and said in one sentence; `advice` says what to turn.

A stage that is at work all of the time is the limit: what is before it waits for room, what is behind it has
nothing to do. Whether it computes or waits tells what would help. Where the processors are full, all stages
look busy, and the one that takes most of them is the one to look at.
"""

from __future__ import annotations

from collections.abc import Sequence

from tools.profiling import advice
from tools.profiling.document import Kind, Place, Stage, Verdict
from tools.profiling.measurements import Measured

SATURATED = 0.85  # of the time at work: a stage that is the limit
FULL = 0.9  # of the processors busy
MOSTLY = 0.5
DROPS = 0.01  # of the packets; fewer are no sign of a limit
LOCK_WAIT_MS = 2.0  # for the interpreter lock, which whoever holds it gives away after 5 ms
PLACES = 3
SEEN = 0.05  # of the time; a stage that stands somewhere for less does not wait there
ADVICE = 3


def judge(measured: Measured) -> Verdict:
    """Name what limits the run."""
    busiest, source = measured.busiest, measured.source
    saturated = busiest.busy >= SATURATED
    if stuck := _stuck(measured):
        verdict = _stands_still(measured, stuck)
    elif saturated and _waits(measured, busiest):
        verdict = _waiting(measured, busiest)
    elif measured.use.cores >= FULL * measured.cores:
        verdict = _processors(measured)
    elif _lock_is_full(measured):
        verdict = _interpreter_lock(measured)
    elif saturated and measured.in_order(busiest):
        verdict = _order(measured, busiest)
    elif saturated:
        verdict = _stage(measured, busiest)
    elif measured.live:
        verdict = _live(measured)
    elif source.busy >= SATURATED:
        verdict = _reading(measured)
    else:
        verdict = _unknown(measured)
    return verdict


# What is seen


def _stuck(measured: Measured) -> Stage | None:
    """The last stage that has packets before it and took none all the time."""
    held = {edge.consumer for edge in measured.edges if edge.in_flight_before and edge.in_flight}
    taken = {edge.consumer for edge in measured.edges if edge.delivered}
    standing = [stage for stage in measured.stages[1:] if stage.name in held - taken]
    return standing[-1] if standing else None


def _waits(measured: Measured, stage: Stage) -> bool:
    """Whether a stage mostly waits for something that is neither a processor nor its model."""
    waiting = (stage.busy - stage.computing) * stage.workers - (measured.use.starved or 0.0)
    outside_model = (stage.busy - stage.engine) * stage.workers
    return min(waiting, outside_model) > MOSTLY * stage.busy * stage.workers


def _lock_is_full(measured: Measured) -> bool:
    """Whether threads want to run Python more than one at a time can.

    The wait alone does not tell: it is also long where whoever holds the lock has no processor.
    """
    wanted = measured.python_cores >= SATURATED * measured.processes
    return wanted and (measured.use.lock_wait_ms or 0.0) >= LOCK_WAIT_MS


# What is said


def _verdict(measured: Measured, kind: Kind, stage: Stage, said: str, helps: Sequence[str]) -> Verdict:
    helps = [*advice.others(measured), *helps]
    return Verdict(
        kind=kind, stage=stage.name, said=said, advice=helps[:ADVICE], places=_places(measured, stage)
    )


def _stands_still(measured: Measured, stage: Stage) -> Verdict:
    said = f"{stage.name} stands still: packets wait before it, and it took none{_where(measured, stage)}."
    return _verdict(measured, "waiting", stage, said, advice.what_it_waits_for(stage))


def _waiting(measured: Measured, stage: Stage) -> Verdict:
    said = (
        f"{stage.name} is the limit, and it mostly waits: {_at_work(stage)} and computes for "
        f"{_percent(stage.computing / stage.busy)} of that{_where(measured, stage)}."
    )
    return _verdict(measured, "waiting", stage, said, advice.waiting(measured, stage))


def _processors(measured: Measured) -> Verdict:
    cores = {stage.name: measured.cores_of(stage) for stage in measured.stages}
    most = max(measured.stages, key=lambda stage: cores[stage.name])
    share = cores[most.name] / max(sum(cores.values()), 1e-9)
    said = (
        f"The processors are full: {measured.use_said}, and {most.name} takes {_percent(share)} of what the "
        "stages take."
    )
    return _verdict(measured, "processor", most, said, list(advice.less_work(measured, most)))


def _interpreter_lock(measured: Measured) -> Verdict:
    most = max(measured.stages, key=lambda stage: stage.cores)
    said = (
        f"Python is the limit: a thread waits {measured.use.lock_wait_ms or 0:.1f} ms for the interpreter "
        f"lock whenever it wants to run, while {measured.use_said}; {most.name} computes most."
    )
    return _verdict(measured, "processor", most, said, advice.interpreter_lock(measured, most))


def _stage(measured: Measured, stage: Stage) -> Verdict:
    said = f"{stage.name} is the limit: {_at_work(stage)}{_in_model(stage)}, while {measured.use_said}."
    helps = [*advice.more_of_it(measured, stage), *advice.less_work(measured, stage)]
    return _verdict(measured, "stage", stage, said, helps)


def _order(measured: Measured, stage: Stage) -> Verdict:
    keep = "one stream keeps" if measured.streams == 1 else f"{measured.streams} streams keep"
    said = (
        f"The order of frames is the limit: {stage.name} takes those of a stream one behind the other, and "
        f"{keep} it at work {_percent(stage.busy)} of the time{_in_model(stage)}, while {measured.use_said}; "
        "more workers would not help."
    )
    helps = [*advice.order(measured, stage), *advice.less_work(measured, stage)]
    return _verdict(measured, "order", stage, said, helps)


def _live(measured: Measured) -> Verdict:
    busiest, source = measured.busiest, measured.source
    worst = max(measured.edges, key=lambda edge: sum(edge.dropped.values()), default=None)
    dropped = sum(worst.dropped.values()) if worst else 0
    if worst and dropped > DROPS * source.packets_out:
        stage = next(stage for stage in measured.stages if stage.name == worst.consumer)
        said = (
            f"{dropped} of {source.packets_out} frames were dropped before {stage.name}, though no stage is "
            f"at work all of the time ({busiest.name} most, {_percent(busiest.busy)}): they come in bursts."
        )
        return _verdict(measured, "unknown", stage, said, advice.bursts(stage))
    said = (
        f"The sources are the limit: all of their {measured.fps:.1f} frames/s are worked on; {busiest.name} "
        f"is busiest, at work {_percent(busiest.busy)} of the time, and {measured.use_said}."
    )
    verdict = _verdict(measured, "sources", source, said, advice.room(measured))
    return verdict.model_copy(update={"places": []})  # waiting for the next frame is all they do


def _reading(measured: Measured) -> Verdict:
    source, busiest = measured.source, measured.busiest
    said = (
        f"The sources are the limit: in {source.name} {_at_work(source)} and computes for "
        f"{_percent(source.computing / source.busy)} of that, while {busiest.name}, the busiest behind it, "
        f"is at work {_percent(busiest.busy)} of the time."
    )
    return _verdict(measured, "sources", source, said, advice.reading(measured))


def _unknown(measured: Measured) -> Verdict:
    busiest = measured.busiest
    said = (
        f"No single part is the limit: {busiest.name} is busiest, at work {_percent(busiest.busy)} of the "
        f"time, and {measured.use_said}."
    )
    return _verdict(measured, "unknown", busiest, said, advice.unknown())


def _at_work(stage: Stage) -> str:
    who = "it is" if stage.workers == 1 else f"each of its {stage.workers} workers is"
    return f"{who} at work {_percent(stage.busy)} of the time"


def _in_model(stage: Stage) -> str:
    share = stage.engine / max(stage.busy, 1e-9)
    return f", {_percent(share)} of that in its model" if stage.engine > 0.01 else ""


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _where(measured: Measured, stage: Stage) -> str:
    places = _places(measured, stage)
    return f"; it stands still at {places[0].where}: {places[0].line}" if places else ""


def _places(measured: Measured, stage: Stage) -> list[Place]:
    own = [place for place in measured.places if place.stage == stage.name and place.share >= SEEN]
    return sorted(own, key=lambda place: -place.share)[:PLACES]
