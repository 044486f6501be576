"""What to change about a limit: options that the graph really has, the most helpful first."""

from __future__ import annotations

from collections.abc import Iterator

from operators.graphs.graph_files import models_named
from pipeline.definition.options import options_model
from pipeline.node import Node
from tools.profiling.bounds import on_cpu
from tools.profiling.document import Stage
from tools.profiling.measurements import OTHER_CORES, Measured

MOSTLY = 0.5


def other_programs(measured: Measured) -> Iterator[str]:
    """If other programs use the cores, every other finding is uncertain."""
    if measured.other_cores > OTHER_CORES:
        yield f"other programs keep {measured.other_cores:.1f} cores busy: measure with nothing else running"


def find_cause(stage: Stage) -> list[str]:
    """For a stage that waits: where to look for the cause."""
    if "kafka" in stage.op:
        return ["look at the broker, and at the network to it: posestream kafka lag"]
    return [f"find out what {stage.name} waits for: a disk, a network, a device, a lock or a sleep"]


def waiting(measured: Measured, stage: Stage) -> list[str]:
    """If the limit is a stage that waits."""
    node, found = measured.node(stage), find_cause(stage)
    if not measured.in_order(stage) and not node.operator.across_streams:
        found.append(
            f"let several workers wait at the same time: --set {stage.name}.workers={2 * stage.workers}"
        )
    if node.batching.max == 1:
        found.append(f"if one wait can serve several packets, batch them: --set {stage.name}.batch.max=8")
    if node.operator.sink:
        found.append(
            f"if it may drop frames instead of holding up others: --set {stage.name}.on_full=drop_oldest"
        )
    return found


def interpreter_lock(measured: Measured, stage: Stage) -> list[str]:
    """If more threads want to run Python than the interpreter lock lets run."""
    found = [_see_flame_graph(stage)]
    most = min(measured.cores, measured.streams)
    if measured.processes < most and not measured.live:
        found.insert(0, f"spread the streams over processes: --processes {most}")
    return found


def more_of_it(measured: Measured, stage: Stage) -> Iterator[str]:
    """If a stage is the limit while cores are free."""
    node = measured.node(stage)
    most = min(measured.cores, measured.streams) if node.per_stream else measured.cores
    in_model = stage.engine > MOSTLY * stage.busy
    threads = measured.threads(stage)
    if stage.workers < most and not node.operator.across_streams:
        yield f"more workers: --set {stage.name}.workers={most}"
    elif in_model and _has_option(node, "threads") and threads * stage.workers < measured.cores:
        yield f"more threads for its model: --set {stage.name}.threads={measured.cores // stage.workers}"
    if in_model and not _runs_on_cpu(measured, stage):
        if stage.mean_batch < MOSTLY * node.batching.max:
            yield f"wait longer for larger batches: --set {stage.name}.batch.wait_ms=5"
        else:
            yield f"larger batches: --set {stage.name}.batch.max={2 * node.batching.max}"


def order(measured: Measured, stage: Stage) -> Iterator[str]:
    """If the frames of a stream wait for each other."""
    threads = measured.threads(stage)
    if _has_option(measured.node(stage), "threads") and threads * stage.workers < measured.cores:
        yield f"let several cores work on one frame: --set {stage.name}.threads={measured.cores}"
    yield "process more sources at once: they use the free cores"


def less_work(measured: Measured, stage: Stage) -> Iterator[str]:
    """If a stage has too much to do."""
    node, source = measured.node(stage), measured.node(measured.source)
    detector = next((other for other in measured.graph.nodes if _has_option(other, "every")), None)
    if detector and detector is node:
        every = 2 * detector.options.get("every", 1)
        yield f"detect less often: --set {detector.name}.every={every}"
    if models_named(node.options):
        yield f"a smaller or quantised model (posestream models list): --set {stage.name}.model=…"
    if _has_option(node, "backend") and _runs_on_cpu(measured, stage) and not measured.use.gpus:
        yield f"another backend, best on a GPU: --sweep {stage.name}.backend=…"
    if not models_named(node.options):
        yield _see_flame_graph(stage)
    if _has_option(source, "fps"):
        yield f"if not every frame is needed: --set {source.name}.fps=10"


def bursts(stage: Stage) -> list[str]:
    """If frames are dropped although no stage is busy all of the time."""
    return [f"queue more frames, which makes them older: --set {stage.name}.capacity=8"]


def room(measured: Measured) -> list[str]:
    """If everything keeps up with the cameras."""
    load = max(measured.busiest.busy, measured.use.cores / measured.cores, 0.01)
    more = int(measured.streams * (1 / load - 1))
    return [f"there is room for about {more} more such streams"] if more else []


def reading(measured: Measured) -> list[str]:
    """If every stage waits for the sources."""
    source = measured.source
    node, found = measured.node(source), []
    if source.computing < MOSTLY * source.busy:
        found.append("it mostly waits: check the disk, the network or the device that it reads from")
    elif measured.streams < measured.cores:
        if _has_option(node, "threads"):
            found.append(
                f"decoder threads, if the files are intact: --set {source.name}.threads={measured.cores}"
            )
        found.append("process more sources at once: they are decoded in parallel")
    if _has_option(node, "fps"):
        found.append(f"if not every frame is needed: --set {source.name}.fps=10")
    return found or [_see_flame_graph(source)]


def unknown() -> list[str]:
    """If nothing stands out."""
    return ["measure for longer (--seconds), and follow single frames in the trace: --trace FILE"]


def _see_flame_graph(stage: Stage) -> str:
    return f"see where {stage.name} spends its time in the flame graph: --html FILE"


def _runs_on_cpu(measured: Measured, stage: Stage) -> bool:
    own = [engine for engine in measured.engines if engine.stage == stage.name]
    return all(on_cpu(engine.backend) for engine in own)


def _has_option(node: Node, name: str) -> bool:
    return name in options_model(node.operator).model_fields
