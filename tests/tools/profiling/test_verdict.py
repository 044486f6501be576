"""Bottlenecks planted in toy graphs, and their verdicts; then rules, with measurements of other machines."""

from __future__ import annotations

import pytest
import yaml

from operators.graphs.graph_files import load_graph
from tools.profiling.document import Edge, Engine, Place, Stage, Use
from tools.profiling.measurements import Measured
from tools.profiling.session import measure
from tools.profiling.settings import Settings
from tools.profiling.verdict import judge

pytestmark = [pytest.mark.slow, pytest.mark.alone]

SAME = {"op": "toys:Same"}


def toy(folder, *, source="profiling_toys:Endless", **nodes):
    """Write a graph file in which these nodes follow each other."""
    spec, last = {"source": {"op": source}}, "source"
    for name, node in nodes.items():
        spec[name], last = {"after": last, **node}, name
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump({"name": "toy", "graph": spec}))
    return path


PLANTED = {
    "a stage that sleeps": (
        {"first": SAME, "lazy": {"op": "profiling_toys:Sleeps", "ms": 15}, "last": SAME},
        ("waiting", "lazy", "in Sleeps.process: time.sleep(self.ms * len(packets) / 1e3)"),
    ),
    "a sink that blocks": (
        {"work": {"op": "profiling_toys:Burns", "ms": 1}, "sink": {"op": "profiling_toys:Blocks", "ms": 25}},
        ("waiting", "sink", "in Blocks.process: self.taken.acquire()"),
    ),
    "a lock that another thread holds": (
        {"first": SAME, "locked": {"op": "profiling_toys:NeedsLock", "ms": 15}, "last": SAME},
        ("waiting", "locked", "in NeedsLock.process: "),
    ),
}


@pytest.mark.parametrize(("nodes", "expected"), PLANTED.values(), ids=PLANTED)
def test_a_stage_that_waits_is_named_with_its_line(tmp_path, nodes, expected):
    kind, stage, line = expected
    verdict = measure(Settings(toy(tmp_path, **nodes), {"a": "0"}, seconds=1.5, warmup_s=0.3)).verdict
    assert (verdict.kind, verdict.stage) == (kind, stage), verdict
    assert line in verdict.said
    assert verdict.places[0].stage == stage
    assert verdict.places[0].share > 0.5
    assert any(f"--set {stage}.workers=2" in line for line in verdict.advice)


def test_the_line_with_the_lock_is_named(tmp_path):
    nodes = {"locked": {"op": "profiling_toys:NeedsLock", "ms": 15}}
    verdict = measure(Settings(toy(tmp_path, **nodes), {"a": "0"}, seconds=1.5, warmup_s=0.3)).verdict
    assert verdict.places[0].line == "with self.lock:"


def test_a_stage_that_computes_in_python_is_named(tmp_path):
    graph = toy(tmp_path, first=SAME, burns={"op": "profiling_toys:Burns", "ms": 10}, last=SAME)
    verdict = measure(Settings(graph, {"a": "0"}, seconds=1.5, warmup_s=0.3)).verdict
    assert verdict.stage == "burns"
    assert verdict.kind in {"stage", "processor"}  # the latter on a machine with one processor


def test_a_slow_source_is_named(tmp_path):
    verdict = measure(Settings(toy(tmp_path, same=SAME), {"a": "10"}, seconds=1.5, warmup_s=0.3)).verdict
    assert (verdict.kind, verdict.stage) == ("sources", "source")
    assert any("it mostly waits" in line for line in verdict.advice)


# Rules


def stage(name, busy=0.1, computing=None, *, workers=1, engine=0.0, **more):
    computing = busy if computing is None else computing
    return Stage(**{
        "name": name, "op": name, "workers": workers, "packets_in": 100, "packets_out": 100, "packets_per_s": 10.0,
        "busy": busy, "computing": computing, "blocked": 0.0, "idle": 1 - busy, "cores": computing * workers,
        "engine": engine, "batches": {1: 100}, "mean_batch": 1.0, "wait_p50_ms": 0.0, "wait_p95_ms": 0.0,
        "wait_p99_ms": 0.0, "latency_p50_ms": 0.0, "latency_p95_ms": 0.0, "latency_p99_ms": 0.0, "memory_mb": None,
        "mb_per_s": 0.0, **more,
    })  # fmt: skip


def edge(producer, consumer, **more):
    counts = {"received": 100, "delivered": 100, "in_flight_before": 0, "in_flight": 0}
    return Edge(producer=producer, consumer=consumer, **{**counts, **more})


def engine(stage, threads=1, backend="onnxruntime"):
    return Engine(stage=stage, model="m", file="m.onnx", backend=backend, threads=threads, calls=1, items=1,
                  items_per_frame=1.0, call_p50_ms=1.0, call_p95_ms=1.0, ms_per_item=1.0)  # fmt: skip


def judged(folder, stages, *, use=None, per_stream=(), edges=None, after=None, **more):
    """Judge a chain of these stages on four cores; one core is busy unless `use` says otherwise."""
    nodes = {s.name: {"op": "toys:SameByStream" if s.name in per_stream else "toys:Same"} for s in stages[1:]}
    for name, producer in (after or {}).items():
        nodes[name]["after"] = producer
    names = [s.name for s in stages]
    figures = {"cores": 1.0, "cores_all": None, "memory_mb": 1.0, "memory_before_mb": 1.0, **(use or {})}
    facts = {"cores": 4, "live": False, "streams": 4, "processes": 1, "fps": 10.0, "engines": [], **more}
    return judge(
        Measured(
            graph=load_graph(toy(folder, **nodes)),
            stages=[stages[0].model_copy(update={"name": "source"}), *stages[1:]],
            edges=edges or [edge(a, b) for a, b in zip(["source", *names[1:]], names[1:], strict=False)],
            use=Use(**figures),
            **facts,
        )
    )


CASES = {
    "one stage is full": (
        {"stages": [stage("s"), stage("a", 0.5), stage("b", 0.99)]},
        ("stage", "b"),
    ),
    "all cores are busy: the stage that uses most of them": (
        {"stages": [stage("s", 0.9), stage("a", 0.95, workers=3), stage("b", 0.99)], "use": {"cores": 3.9}},
        ("processor", "a"),
    ),
    "an engine's own threads count": (
        {"stages": [stage("s"), stage("a", 0.9), stage("b", 0.8, 0.5, engine=0.7)], "use": {"cores": 3.9},
         "engines": [engine("b", threads=4)]},
        ("processor", "b"),
    ),
    "ready to run without a core is not waiting": (
        {"stages": [stage("s"), stage("a", 0.99, 0.2)], "use": {"cores": 0.3, "starved": 0.8}},
        ("stage", "a"),
    ),
    "waiting for its model on a device does not count as waiting": (
        {"stages": [stage("s"), stage("a", 0.99, 0.1, engine=0.9)]},
        ("stage", "a"),
    ),
    "a sleep is named even if other stages keep all cores busy": (
        {"stages": [stage("s"), stage("a", 0.6, workers=6), stage("b", 0.99, 0.01)], "use": {"cores": 3.9}},
        ("waiting", "b"),
    ),
    "threads wait for the interpreter lock": (
        {"stages": [stage("s"), stage("a", 0.9, 0.6), stage("b", 0.8, 0.4)], "use": {"lock_wait_ms": 4.5}},
        ("processor", "a"),
    ),
    "a stage with as many workers as streams": (
        {"stages": [stage("s"), stage("a", 0.97, workers=2)], "per_stream": ["a"], "streams": 2},
        ("order", "a"),
    ),
    "a stage that keeps order, with fewer workers than streams": (
        {"stages": [stage("s"), stage("a", 0.97, workers=2)], "per_stream": ["a"], "streams": 4},
        ("stage", "a"),
    ),
    "files that are read slowly": (
        {"stages": [stage("s", 0.95), stage("a", 0.3)]},
        ("sources", "source"),
    ),
    "cameras that every stage keeps up with": (
        {"stages": [stage("s", 0.95), stage("a", 0.3)], "live": True},
        ("sources", "source"),
    ),
    "cameras that come in bursts": (
        {"stages": [stage("s", 0.95), stage("a", 0.3), stage("b", 0.5)], "live": True,
         "edges": [edge("source", "a", dropped={"full": 20}), edge("a", "b")]},
        ("unknown", "a"),
    ),
    "a stage that took nothing although packets wait": (
        {"stages": [stage("s", 0.0), stage("a", 0.0), stage("b", 0.0)],
         "edges": [edge("source", "a", delivered=0, in_flight_before=4, in_flight=4),
                   edge("a", "b", delivered=0, in_flight_before=4, in_flight=4)]},
        ("waiting", "b"),
    ),
    "a branch that drops frames does not hold up others": (
        {"stages": [stage("s"), stage("a", 0.9), stage("b", 0.2), stage("c", 0.99, 0.1), stage("d", 0.98)],
         "after": {"c": "a", "d": "c"},
         "edges": [edge("source", "a"), edge("a", "b"), edge("a", "c", dropped={"full": 50}), edge("c", "d")]},
        ("stage", "a"),
    ),
    "much waiting for the interpreter lock, but little Python": (
        {"stages": [stage("s"), stage("a", 0.95, 0.5, engine=0.9)], "use": {"lock_wait_ms": 4.5}},
        ("stage", "a"),
    ),
    "nothing stands out": (
        {"stages": [stage("s", 0.3), stage("a", 0.6), stage("b", 0.4)]},
        ("unknown", "a"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("figures", "expected"), CASES.values(), ids=CASES)
def test_the_kind_of_limit_and_its_stage(tmp_path, figures, expected):
    verdict = judged(tmp_path, **figures)
    assert (verdict.kind, verdict.stage) == expected, verdict.said
    assert verdict.said.endswith(".")
    assert expected[1] in verdict.said
    assert 1 <= len(verdict.advice) <= 3


def test_only_the_lines_of_the_stage_itself_are_shown_the_worst_first(tmp_path):
    places = [Place(stage=name, where=f"x.py:{share}", line="wait()", share=share)
              for name, share in (("a", 0.2), ("b", 0.9), ("a", 0.6))]  # fmt: skip
    verdict = judged(tmp_path, [stage("s"), stage("a", 0.9, 0.1), stage("b")], places=places)
    assert [place.share for place in verdict.places] == [0.6, 0.2]
    assert "x.py:0.6: wait()" in verdict.said


def test_other_programs_on_the_machine_are_named_first(tmp_path):
    use = {"cores": 1.0, "cores_all": 3.0}
    verdict = judged(tmp_path, [stage("s"), stage("a", 0.99)], use=use)
    assert verdict.advice[0].startswith("other programs keep 2.0 cores busy")
    assert "(and 2.0 by other programs)" in verdict.said


def advice(graph, stages, **more):
    facts = {"cores": 4, "live": False, "streams": 1, "processes": 1, "fps": 10.0, "edges": [], "engines": [],
             "use": Use(cores=1.0, cores_all=None, memory_mb=1.0, memory_before_mb=1.0)}  # fmt: skip
    return judge(Measured(graph=load_graph(graph), stages=stages, **{**facts, **more}))


def test_advice_names_options_that_the_graph_has():
    stages = [stage("decode"), stage("detect", 0.2), stage("track"), stage("pose", 0.99, engine=0.9)]
    order = advice("human-lite", stages, engines=[engine("pose", threads=2)])
    assert order.kind == "order"
    assert "--set pose.threads=4" in order.advice[0]
    full = advice("human-lite", stages, engines=[engine("pose", threads=4)])
    assert not any("threads" in line for line in full.advice)
    detecting = [stage("decode"), stage("detect", 0.99, engine=0.9), stage("track"), stage("pose", 0.3)]
    found = advice("human-lite", detecting, engines=[engine("detect")]).advice
    assert any("--set detect.workers=4" in line for line in found)
    assert any("--set detect.every=10" in line for line in found)
    reading = advice("human-lite", [stage("decode", 0.99), stage("detect"), stage("track"), stage("pose")])
    assert any("--set decode.threads=4" in line for line in reading.advice)
