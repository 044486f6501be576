"""A measurement: run a graph as usual, measure it for a while, let it finish, and write up its profile."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from itertools import count, cycle, islice
from pathlib import Path

from operators.decoding.addresses import is_camera
from operators.graphs.graph_files import load_graph
from operators.graphs.weights import check_weights
from pipeline.errors import ConfigError, PipelineError
from pipeline.graph import Graph
from pipeline.make_run import make_run
from pipeline.measurement.run_stats import RunStats
from pipeline.operator import Source
from pipeline.run import Run
from pipeline.running import Running
from tools.profiling.bounds import IsolatedBench
from tools.profiling.document import Profile
from tools.profiling.machine.gpus import load_nvml
from tools.profiling.machine.usage import UseSampler
from tools.profiling.recording.recorder import Recorder
from tools.profiling.settings import Settings
from tools.profiling.summary import Window, write_up

TICK_S = 0.1
FIRST_FRAME_S = 10.0  # longest wait for the first finished frame, before the warm-up
DRAIN_S = 30.0  # longest wait until the frames that were read are finished; then the run is aborted
ABORT_S = 5.0  # longest wait for an aborted run; then it is left behind

OnProgress = Callable[[str, float | None], None]  # what is going on; how much of it is done, 0..1 or None


class NothingMeasuredError(PipelineError):
    """The measurement was stopped before it began."""


class StopRequest:
    """Lets another thread end a measurement early; what was measured until then is judged."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self.aborted = threading.Event()

    def stop(self) -> None:
        """Measure no more, and finish the frames that were read."""
        self.stopped.set()

    def abort(self) -> None:
        """Measure no more, and throw away the frames that were read."""
        self.stopped.set()
        self.aborted.set()


def measure(
    settings: Settings,
    *,
    stop: StopRequest | None = None,
    isolated: IsolatedBench | None = None,
    on_progress: OnProgress = lambda *_: None,
) -> Profile:
    """Run the graph and measure where its time goes.

    The graph's own sinks write as usual; no others are added. Files are played in a loop. `isolated`
    remembers what it has measured, so that several measurements can share it.

    Raises:
        ConfigError, SourceError, AssetError, EngineError: the graph cannot run; nothing was started.
        NothingMeasuredError: it was stopped too early.
        PosestreamError: the run failed.
    """
    stop = stop or StopRequest()
    graph = prepare(settings)
    sources = repeated(settings.sources, settings.streams)
    nvml = load_nvml()
    with tempfile.TemporaryDirectory(prefix="posestream-profile-") as folder:
        recorder = Recorder(Path(folder), trace=settings.trace is not None, sample_hz=settings.sample_hz)
        running = _make(settings, graph, sources, recorder)
        watch = _Watch(settings, running, stop, on_progress)
        use = UseSampler(watch.finished, nvml)
        on_progress("opening the operators", None)
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

            on_progress("writing the trace", None)
            write_trace(Path(folder), settings.trace, (window.start_ns, window.end_ns))
        return write_up(
            settings,
            graph,
            sources,
            window,
            running.stats(),
            Path(folder),
            isolated=isolated
            or IsolatedBench(stop.stopped, lambda what: on_progress(f"measuring {what}", None)),
            notes=watch.notes,
        )


def prepare(settings: Settings) -> Graph:
    """Load and check the graph; its decoder plays files in a loop unless the settings say otherwise.

    Raises:
        ConfigError, AssetError, EngineError: the graph cannot run.
        SourceError: a source cannot be read.
    """
    graph = load_graph(settings.graph, settings.changes)
    if len(graph.nodes) == 1:
        raise ConfigError(f"{graph.where}: the graph only decodes; give one that also works on the frames")
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
    """Take the first `streams` sources; if there are fewer, repeat them in turn under new names."""
    if streams is None:
        return dict(sources)
    named: dict[str, str] = {}
    for name, uri in islice(cycle(sources.items()), streams):
        unused = name if name not in named else next(
            new for n in count(2) if (new := f"{name}-{n}") not in named and new not in sources
        )  # fmt: skip
        named[unused] = uri
    return named


def _make(settings: Settings, graph: Graph, sources: Mapping[str, str], recorder: Recorder) -> Running:
    if not settings.live:
        return make_run(graph, sources, processes=settings.processes, tracer=recorder)
    if settings.processes not in (None, 1):
        raise ConfigError("--live runs in one process, as `posestream attach` does; leave out --processes")
    return Run(graph, sources, live=True, max_age_s=settings.max_age_s, tracer=recorder)


class _Watch:
    """Watches a run from its start to its end."""

    def __init__(self, settings: Settings, running: Running, stop: StopRequest, on_progress: OnProgress):
        self.notes: list[str] = []
        self._settings, self._running = settings, running
        self._stop, self._on_progress = stop, on_progress
        self._stats: RunStats | None = None  # the last snapshot that `finished` took

    def finished(self) -> int:
        """Count the frames that have left the graph so far."""
        self._stats = self._running.stats()
        return self._stats.finished

    def measure(self, use: UseSampler) -> Window:
        """Warm up, then measure for as long as the settings say.

        Raises:
            NothingMeasuredError, ConfigError: the run ended in the warm-up.
        """
        settings, running = self._settings, self._running
        self._wait("waiting for the first frame", FIRST_FRAME_S, until=lambda: self.finished() > 0)
        self._wait("warming up", settings.warmup_s)
        start_ns, before = time.monotonic_ns(), running.stats()
        if self._must_end():
            self._raise_nothing_measured(before)
        use.start()
        self._wait("measuring", settings.seconds, until=lambda: self._a_stream_ended(self._stats))
        used = use.stop()
        window = Window(start_ns, time.monotonic_ns(), before, running.stats(), used)
        if self._a_stream_ended(window.after):
            read_s = window.after.run_ns / 1e9
            self.notes.append(f"the measurement ended with a source, {read_s:.1f} s after reading began")
        return window

    def drain(self) -> bool:
        """Stop reading and let the run finish; False if it does not end even when it is aborted."""
        self._on_progress("finishing the frames that were read", None)
        self._running.stop()
        deadline = time.monotonic() + DRAIN_S
        while not self._running.wait(TICK_S):
            if self._stop.aborted.is_set() or time.monotonic() > deadline:
                self._running.abort()
                if self._running.wait(ABORT_S):
                    break
                self.notes.append("a stage does not end: the packets that it holds stay in flight")
                return False
        return True

    def _wait(self, what: str, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        start = time.monotonic()
        while (passed := time.monotonic() - start) < seconds and not self._must_end() and not until():
            self._on_progress(what, passed / seconds)
            self._running.wait(min(TICK_S, seconds - passed))

    def _must_end(self) -> bool:
        return self._stop.stopped.is_set() or self._running.wait(0)

    @staticmethod
    def _a_stream_ended(stats: RunStats | None) -> bool:
        """Whether a stream had ended: from then on less is read, so the measurement ends, too."""
        return stats is not None and any(stream.ended for stream in stats.streams)

    def _raise_nothing_measured(self, stats: RunStats) -> None:
        if self._running.failure:
            raise self._running.failure
        if self._stop.stopped.is_set():
            raise NothingMeasuredError("the measurement was stopped before it began")
        read = sum(stream.read for stream in stats.streams)
        raise ConfigError(
            f"the sources ended after {read} frames, in the warm-up: give longer ones, or set --warmup 0"
        )
