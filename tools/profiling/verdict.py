"""What limits a run, judged from its measurements, in one sentence; `advice` says what to change.

A stage that is at work all of the time is the limit: the stages before it wait for room, the stages behind
it are idle. What helps depends on whether it computes or waits. Where all cores are busy, every stage looks
busy, and the stage that uses most of them is named.
"""

from __future__ import annotations

from collections.abc import Sequence

from tools.profiling import advice
from tools.profiling.document import Kind, Place, Stage, Verdict
from tools.profiling.measurements import Measured

SATURATED = 0.85  # share of the time at work above which a stage is the limit
FULL = 0.9  # share of the cores that are busy above which the cores are the limit
MOSTLY = 0.5
DROPS = 0.01  # share of the packets; fewer drops are no sign of a limit
LOCK_WAIT_MS = 2.0  # wait for the interpreter lock; its holder must release it after 5 ms
PLACES = 3  # lines that are shown
SEEN = 0.05  # share of the time; a stage that stands still at a line for less does not wait there
ADVICE = 3  # pieces of advice that are given


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


# Signs


def _stuck(measured: Measured) -> Stage | None:
    """The last stage that took no packet in the whole window although packets waited for it."""
    waited_for = {edge.consumer for edge in measured.edges if edge.in_flight_before and edge.in_flight}
    taken = {edge.consumer for edge in measured.edges if edge.delivered}
    stuck = [stage for stage in measured.stages[1:] if stage.name in waited_for - taken]
    return stuck[-1] if stuck else None


def _waits(measured: Measured, stage: Stage) -> bool:
    """Whether a stage mostly waits, for neither a core nor its model."""
    waiting = (stage.busy - stage.computing) * stage.workers - (measured.use.starved or 0.0)
    outside_model = (stage.busy - stage.engine) * stage.workers
    return min(waiting, outside_model) > MOSTLY * stage.busy * stage.workers


def _lock_is_full(measured: Measured) -> bool:
    """Whether more threads want to run Python than the interpreter lock lets run.

    A long wait alone does not prove it: it is also long if the thread that holds the lock has no core.
    """
    wanted = measured.python_cores >= SATURATED * measured.processes
    return wanted and (measured.use.lock_wait_ms or 0.0) >= LOCK_WAIT_MS


# Verdicts


def _verdict(measured: Measured, kind: Kind, stage: Stage, sentence: str, helps: Sequence[str]) -> Verdict:
    helps = [*advice.other_programs(measured), *helps]
    return Verdict(
        kind=kind, stage=stage.name, said=sentence, advice=helps[:ADVICE], places=_places(measured, stage)
    )


def _stands_still(measured: Measured, stage: Stage) -> Verdict:
    sentence = f"{stage.name} stands still: packets wait for it, and it took none{_where(measured, stage)}."
    return _verdict(measured, "waiting", stage, sentence, advice.find_cause(stage))


def _waiting(measured: Measured, stage: Stage) -> Verdict:
    sentence = (
        f"{stage.name} is the limit, and it mostly waits: {_at_work(stage)} and computes for "
        f"{_percent(stage.computing / stage.busy)} of that{_where(measured, stage)}."
    )
    return _verdict(measured, "waiting", stage, sentence, advice.waiting(measured, stage))


def _processors(measured: Measured) -> Verdict:
    cores = {stage.name: measured.cores_of(stage) for stage in measured.stages}
    most = max(measured.stages, key=lambda stage: cores[stage.name])
    share = cores[most.name] / max(sum(cores.values()), 1e-9)
    sentence = (
        f"The cores are the limit: {measured.cores_in_words}, and {most.name} uses {_percent(share)} of what "
        "the stages use."
    )
    return _verdict(measured, "processor", most, sentence, list(advice.less_work(measured, most)))


def _interpreter_lock(measured: Measured) -> Verdict:
    most = max(measured.stages, key=lambda stage: stage.cores)
    sentence = (
        f"Python's interpreter lock is the limit: a thread waits {measured.use.lock_wait_ms or 0:.1f} ms for "
        f"it whenever it wants to run, while {measured.cores_in_words}; {most.name} computes most."
    )
    return _verdict(measured, "processor", most, sentence, advice.interpreter_lock(measured, most))


def _stage(measured: Measured, stage: Stage) -> Verdict:
    sentence = (
        f"{stage.name} is the limit: {_at_work(stage)}{_in_model(stage)}, while {measured.cores_in_words}."
    )
    helps = [*advice.more_of_it(measured, stage), *advice.less_work(measured, stage)]
    return _verdict(measured, "stage", stage, sentence, helps)


def _order(measured: Measured, stage: Stage) -> Verdict:
    keep = "one stream keeps" if measured.streams == 1 else f"{measured.streams} streams keep"
    sentence = (
        f"The order of frames is the limit: {stage.name} takes the frames of a stream one after the other, "
        f"and {keep} it at work {_percent(stage.busy)} of the time{_in_model(stage)}, while "
        f"{measured.cores_in_words}; more workers would not help."
    )
    helps = [*advice.order(measured, stage), *advice.less_work(measured, stage)]
    return _verdict(measured, "order", stage, sentence, helps)


def _live(measured: Measured) -> Verdict:
    busiest, source = measured.busiest, measured.source
    worst = max(measured.edges, key=lambda edge: sum(edge.dropped.values()), default=None)
    dropped = sum(worst.dropped.values()) if worst else 0
    if worst and dropped > DROPS * source.packets_out:
        stage = next(stage for stage in measured.stages if stage.name == worst.consumer)
        sentence = (
            f"{dropped} of {source.packets_out} frames were dropped before {stage.name}, although no "
            f"stage is at work all of the time ({busiest.name} most, {_percent(busiest.busy)}): they come in "
            "bursts."
        )
        return _verdict(measured, "unknown", stage, sentence, advice.bursts(stage))
    sentence = (
        f"The sources are the limit: all of their {measured.fps:.1f} frames/s are processed; {busiest.name} "
        f"is busiest, at work {_percent(busiest.busy)} of the time, and {measured.cores_in_words}."
    )
    verdict = _verdict(measured, "sources", source, sentence, advice.room(measured))
    return verdict.model_copy(update={"places": []})  # a camera is expected to wait for its next frame


def _reading(measured: Measured) -> Verdict:
    source, busiest = measured.source, measured.busiest
    reader = source.name if source.workers == 1 else f"each worker of {source.name}"
    sentence = (
        f"The sources are the limit: {reader} is at work {_percent(source.busy)} of the time and computes "
        f"for {_percent(source.computing / source.busy)} of that, while {busiest.name}, the busiest stage "
        f"behind it, is at work {_percent(busiest.busy)} of the time."
    )
    return _verdict(measured, "sources", source, sentence, advice.reading(measured))


def _unknown(measured: Measured) -> Verdict:
    busiest = measured.busiest
    sentence = (
        f"No single part is the limit: {busiest.name} is busiest, at work {_percent(busiest.busy)} of the "
        f"time, and {measured.cores_in_words}."
    )
    return _verdict(measured, "unknown", busiest, sentence, advice.unknown())


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
