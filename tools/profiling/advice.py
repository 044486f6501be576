"""What to turn where a run has a certain limit: options that its graph really has, the most helpful first."""

from __future__ import annotations

from collections.abc import Iterator

from operators.graph_files import models_named
from pipeline.definition.options import options_model
from pipeline.node import Node
from tools.profiling.bounds import on_cpu
from tools.profiling.document import Stage
from tools.profiling.measurements import OTHERS, Measured

MOSTLY = 0.5


def others(measured: Measured) -> Iterator[str]:
    """Where others use the processors, too, nothing else is certain."""
    if measured.others > OTHERS:
        yield f"other programs keep {measured.others:.1f} cores busy: measure with nothing else running"


def what_it_waits_for(stage: Stage) -> list[str]:
    """Of a stage that computes little."""
    if "kafka" in stage.op:
        return ["look at the broker, and at the network to it: posestream kafka lag"]
    return [f"look at what {stage.name} waits for: a disk, a network, a device, a lock or a sleep"]


def waiting(measured: Measured, stage: Stage) -> list[str]:
    """Where a stage that waits is the limit."""
    node, found = measured.node(stage), what_it_waits_for(stage)
    if not measured.in_order(stage) and not node.operator.across_streams:
        found.append(f"let more of it wait side by side: --set {stage.name}.workers={2 * stage.workers}")
    if node.batching.max == 1:
        found.append(f"if one wait can serve several packets: --set {stage.name}.batch.max=8")
    if node.operator.sink:
        found.append(f"if it may lose frames: --set {stage.name}.on_full=drop_oldest, and it holds up nobody")
    return found


def interpreter_lock(measured: Measured, stage: Stage) -> list[str]:
    """Where more threads want to run Python than one at a time can."""
    found = [_look_at(stage)]
    most = min(measured.cores, measured.streams)
    if measured.processes < most and not measured.live:
        found.insert(0, f"share the streams among processes: --processes {most}")
    return found


def more_of_it(measured: Measured, stage: Stage) -> Iterator[str]:
    """Where a stage is the limit, and the processors are not."""
    node = measured.node(stage)
    most = min(measured.cores, measured.streams) if node.per_stream else measured.cores
    in_model = stage.engine > MOSTLY * stage.busy
    threads = measured.threads(stage)
    if stage.workers < most and not node.operator.across_streams:
        yield f"more of it side by side: --set {stage.name}.workers={most}"
    elif in_model and _has_option(node, "threads") and threads * stage.workers < measured.cores:
        yield f"more threads for its model: --set {stage.name}.threads={measured.cores // stage.workers}"
    if in_model and not _runs_on_cpu(measured, stage):
        if stage.mean_batch < MOSTLY * node.batching.max:
            yield f"larger batches, from several streams: --set {stage.name}.batch.wait_ms=5"
        else:
            yield f"larger batches: --set {stage.name}.batch.max={2 * node.batching.max}"


def order(measured: Measured, stage: Stage) -> Iterator[str]:
    """Where the frames of a stream wait for each other."""
    threads = measured.threads(stage)
    if _has_option(measured.node(stage), "threads") and threads * stage.workers < measured.cores:
        yield f"let several processors work on one frame: --set {stage.name}.threads={measured.cores}"
    yield "give more sources at once: they use the rest of the machine"


def less_work(measured: Measured, stage: Stage) -> Iterator[str]:
    """Where a stage simply has too much to do."""
    node, source = measured.node(stage), measured.node(measured.source)
    looks = next((other for other in measured.graph.nodes if _has_option(other, "every")), None)
    if looks and looks is node:
        yield f"look for new ones less often: --set {looks.name}.every={2 * looks.options.get('every', 1)}"
    if models_named(node.options):
        yield f"a smaller or quantised model: posestream models list, --set {stage.name}.model=…"
    if _has_option(node, "backend") and _runs_on_cpu(measured, stage) and not measured.use.gpus:
        yield f"another backend, on a GPU best: --sweep {stage.name}.backend=…"
    if not models_named(node.options):
        yield _look_at(stage)
    if _has_option(source, "fps"):
        yield f"if not every frame is needed: --set {source.name}.fps=10"


def bursts(stage: Stage) -> list[str]:
    """Where frames are lost though there would be time for them."""
    return [f"hold more of them, which makes them older: --set {stage.name}.capacity=8"]


def room(measured: Measured) -> list[str]:
    """Where everything keeps up with the cameras."""
    load = max(measured.busiest.busy, measured.use.cores / measured.cores, 0.01)
    more = int(measured.streams * (1 / load - 1))
    return [f"there is room for about {more} more such streams"] if more else []


def reading(measured: Measured) -> list[str]:
    """Where all wait for the sources."""
    source = measured.source
    node, found = measured.node(source), []
    if source.computing < MOSTLY * source.busy:
        found.append("it mostly waits: look at the disk, the network or the device that it reads from")
    elif measured.streams < measured.cores:
        if _has_option(node, "threads"):
            found.append(f"frame threads, if files are intact: --set {source.name}.threads={measured.cores}")
        found.append("give more sources at once: they are decoded side by side")
    if _has_option(node, "fps"):
        found.append(f"if not every frame is needed: --set {source.name}.fps=10")
    return found or [_look_at(source)]


def unknown() -> list[str]:
    """Where nothing stands out."""
    return ["measure for longer (--seconds), and follow some frames in the trace: --trace FILE"]


def _look_at(stage: Stage) -> str:
    return f"look at where {stage.name} spends its time, in the flame graph: --html FILE"


def _runs_on_cpu(measured: Measured, stage: Stage) -> bool:
    own = [engine for engine in measured.engines if engine.stage == stage.name]
    return all(on_cpu(engine.backend) for engine in own)


def _has_option(node: Node, name: str) -> bool:
    return name in options_model(node.operator).model_fields
