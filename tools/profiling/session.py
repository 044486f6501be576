"""A measurement: a graph is run as it would be anyway, looked at for a while, drained, and summed up."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from itertools import count, cycle, islice
from pathlib import Path

from operators.decoding.addresses import is_camera
from operators.graph_files import load_graph
from operators.weights import check_weights
from pipeline.errors import ConfigError, PipelineError
from pipeline.graph import Graph
from pipeline.measurement.stats import RunStats
from pipeline.operator import Source
from pipeline.run import Run, make_run
from pipeline.running import Running
from tools.profiling.bounds import Lone
from tools.profiling.document import Profile
from tools.profiling.machine.gpus import load_nvml
from tools.profiling.machine.usage import UseSampler
from tools.profiling.recording.recorder import Recorder
from tools.profiling.settings import Settings
from tools.profiling.summary import Window, write_up

TICK_S = 0.1
FIRST_FRAME_S = 10.0  # until the first frame has left, before warming up begins
DRAIN_S = 30.0  # until what was read is finished; then it is thrown away
ABORT_S = 5.0  # until that is done; then the run is left behind

Said = Callable[[str, float | None], None]  # what is going on, and how much of it is done, 0..1


class NothingMeasuredError(PipelineError):
    """It was ended before anything could be measured."""


class Ending:
    """How others end a measurement: `stop` judges what was measured so far, `abort` waits for nothing."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self.aborted = threading.Event()

    def stop(self) -> None:
        """Measure no more."""
        self.stopped.set()

    def abort(self) -> None:
        """Nor finish what was read."""
        self.stopped.set()
        self.aborted.set()


def measure(
    settings: Settings,
    *,
    ending: Ending | None = None,
    lone: Lone | None = None,
    said: Said = lambda *_: None,
) -> Profile:
    """Run the graph, and say where the time goes.

    The graph's own sinks write where it says; no others are added. Files are played over and over. `lone`
    keeps what it has measured from one measurement to the next.

    Raises:
        ConfigError, SourceError, AssetError, EngineError: before anything runs.
        NothingMeasuredError: it was ended too early.
        PosestreamError: the run failed.
    """
    ending = ending or Ending()
    graph = prepare(settings)
    sources = repeated(settings.sources, settings.streams)
    nvml = load_nvml()
    with tempfile.TemporaryDirectory(prefix="posestream-profile-") as folder:
        recorder = Recorder(Path(folder), trace=settings.trace is not None, sample_hz=settings.sample_hz)
        running = _make(settings, graph, sources, recorder)
        watch = _Watch(settings, running, ending, said)
        use = UseSampler(watch.finished, nvml)
        said("opening the operators", None)
        running.start()
        try:
            window = watch.measure(use)
        finally:
            left_behind = not watch.drain()
            if left_behind and isinstance(running, Run):
                recorder.end()
        if running.failure:
            raise running.failure
        if settings.trace:
            from tools.profiling.recording.trace import write_trace

            said("writing the trace", None)
            write_trace(Path(folder), settings.trace, (window.start_ns, window.end_ns))
        return write_up(
            settings,
            graph,
            sources,
            window,
            running.stats(),
            Path(folder),
            lone=lone or Lone(ending.stopped, lambda what: said(f"measuring {what}", None)),
            notes=watch.notes,
        )


def prepare(settings: Settings) -> Graph:
    """The graph as it is going to run: a decoder plays files over and over, unless it is told otherwise.

    Raises:
        ConfigError, AssetError, EngineError: it cannot run.
        SourceError: a source cannot be read.
    """
    graph = load_graph(settings.graph, settings.changes)
    if len(graph.nodes) == 1:
        raise ConfigError(f"{graph.where}: it only decodes; take a graph that does something with the frames")
    check_weights(graph)
    source = graph.source.make()
    assert isinstance(source, Source)  # Graph has checked it
    for uri in dict.fromkeys(settings.sources.values()):
        if not (settings.live and is_camera(uri)):
            source.check(uri)
    loop = f"{graph.source.name}.loop"
    if graph.source.op == "decode" and loop not in settings.changes:
        graph = load_graph(settings.graph, {**settings.changes, loop: 0})
    return graph


def repeated(sources: Mapping[str, str], streams: int | None) -> dict[str, str]:
    """So many of the sources: the first ones, or all in turn and again under further names."""
    if streams is None:
        return dict(sources)
    named: dict[str, str] = {}
    for name, uri in islice(cycle(sources.items()), streams):
        free = name if name not in named else next(
            further for n in count(2) if (further := f"{name}-{n}") not in named and further not in sources
        )  # fmt: skip
        named[free] = uri
    return named


def _make(settings: Settings, graph: Graph, sources: Mapping[str, str], recorder: Recorder) -> Running:
    if not settings.live:
        return make_run(graph, sources, processes=settings.processes, tracer=recorder)
    if settings.processes not in (None, 1):
        raise ConfigError("--live runs in one process, as `attach` does; leave out --processes")
    return Run(graph, sources, live=True, max_age_s=settings.max_age_s, tracer=recorder)


class _Watch:
    """Follows a run from its start to its end."""

    def __init__(self, settings: Settings, running: Running, ending: Ending, said: Said):
        self.notes: list[str] = []
        self._settings, self._running, self._ending, self._said = settings, running, ending, said
        self._stats: RunStats | None = None  # of lately

    def finished(self) -> int:
        """How many frames have left the graph until now."""
        self._stats = self._running.stats()
        return self._stats.finished

    def measure(self, use: UseSampler) -> Window:
        """Warm up, then let time pass; what was done in it.

        Raises:
            NothingMeasuredError, ConfigError: nothing was, since it ended before.
        """
        settings, running = self._settings, self._running
        self._let_pass("waiting for the first frame", FIRST_FRAME_S, until=lambda: self.finished() > 0)
        self._let_pass("warming up", settings.warmup_s)
        start_ns, before = time.monotonic_ns(), running.stats()
        if self._over():
            self._say_why_not(before)
        use.start()
        self._let_pass("measuring", settings.seconds, until=lambda: self._ended(self._stats))
        used = use.stop()
        window = Window(start_ns, time.monotonic_ns(), before, running.stats(), used)
        if self._ended(window.after):
            read_s = window.after.run_ns / 1e9
            self.notes.append(f"a source ended {read_s:.1f} s after it began, and with it the measurement")
        return window

    def drain(self) -> bool:
        """Stop reading and let the run finish; False if it does not even end when it is aborted."""
        self._said("finishing what was read", None)
        self._running.stop()
        deadline = time.monotonic() + DRAIN_S
        while not self._running.wait(TICK_S):
            if self._ending.aborted.is_set() or time.monotonic() > deadline:
                self._running.abort()
                if self._running.wait(ABORT_S):
                    break
                self.notes.append("a stage does not end: what it holds is in flight for ever")
                return False
        return True

    def _let_pass(self, what: str, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        start = time.monotonic()
        while (passed := time.monotonic() - start) < seconds and not self._over() and not until():
            self._said(what, passed / seconds)
            self._running.wait(min(TICK_S, seconds - passed))

    def _over(self) -> bool:
        return self._ending.stopped.is_set() or self._running.wait(0)

    @staticmethod
    def _ended(stats: RunStats | None) -> bool:
        """Whether a stream had ended by then: less is read from there on."""
        return stats is not None and any(stream.ended for stream in stats.streams)

    def _say_why_not(self, stats: RunStats) -> None:
        if self._running.failure:
            raise self._running.failure
        if self._ending.stopped.is_set():
            raise NothingMeasuredError("it was ended before anything was measured")
        read = sum(stream.read for stream in stats.streams)
        raise ConfigError(
            f"the sources ended after {read} frames, in the warm-up: give longer ones, or --warmup 0"
        )
