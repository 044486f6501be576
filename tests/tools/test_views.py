"""Records are filled from snapshots by name, and a new counter shows in every view of a run."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass

import pytest
import yaml
from pydantic import BaseModel
from rich.console import Console

from operators.graphs.graph_files import load_graph
from pipeline.run import Run
from tools.profiling.session import measure
from tools.profiling.settings import Settings
from tools.profiling.table import print_profile
from tools.run_report import print_summary
from tools.service.attached import Attached
from tools.service.prometheus import make_registry, scrape
from tools.service.top_client import Answer
from tools.service.top_view import Picture
from tools.views import fill

COUNTS = """
from pipeline.operator import Operator


class Counts(Operator):
    def process(self, packets):
        self.count("odd_ones", len(packets))
        return packets
"""


@dataclass(frozen=True)
class Snapshot:
    name: str = "pose"
    busy: float = 0.123456
    counters: Counter[str] = None

    @property
    def fps(self) -> float:
        return 2.00049


@dataclass(frozen=True)
class Record:
    name: str
    busy: float
    fps: float
    op: str = "none"


class Model(BaseModel):
    name: str
    counters: dict[str, int]


def test_a_field_takes_what_is_given_then_the_first_snapshot_s_then_its_default():
    assert fill(Record, Snapshot()) == Record("pose", 0.123456, 2.00049, "none")
    assert fill(Record, Snapshot(busy=0.5), Snapshot(name="other"), op="slow", fps=1.0) == Record(
        "pose", 0.5, 1.0, "slow"
    )
    assert fill(Record, Snapshot(), digits=3) == Record("pose", 0.123, 2.0, "none")


def test_counters_become_plain_dicts():
    filled = fill(Model, Snapshot(counters=Counter(a=2)))
    assert type(filled.counters) is dict
    assert filled.counters == {"a": 2}


def test_a_field_without_a_value_is_refused():
    with pytest.raises(TypeError, match="fps"):
        fill(Record, Counter(), name="x", busy=0.0)


def shown(show: Callable[[Console], None]) -> str:
    console = Console(file=io.StringIO(), width=100)
    show(console)
    return console.file.getvalue()


def test_a_counter_shows_in_every_view(tmp_path, monkeypatch):
    (tmp_path / "counting_toy.py").write_text(COUNTS)
    monkeypatch.syspath_prepend(tmp_path)
    nodes = {"numbers": {"op": "toys:Numbers"}, "odd": {"op": "counting_toy:Counts", "after": "numbers"}}
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump({"name": "toy", "graph": nodes}))
    run = Run(load_graph(path), {"a": "20"})
    run.start()
    stats = run.finish()
    assert "odd: odd_ones: 20\n" in shown(lambda console: print_summary(stats, console))
    attached = Attached(run)
    now = attached.stages()
    assert asdict(now)["stages"][1]["counters"] == {"odd_ones": 20}
    text, _ = scrape(make_registry(run), "")
    assert b'posestream_operator_events_total{event="odd_ones",stage="odd"} 20.0' in text
    picture = Picture(Answer(0.0, now, attached.streams()), "url")
    assert "counted: odd odd_ones 20" in shown(lambda console: console.print(picture))
    profile = measure(Settings(path, {"a": "100000@2"}, seconds=0.5, warmup_s=0.1))
    assert 0 < profile.stages[1].counters["odd_ones"] <= profile.flow.read
    assert "  odd: odd_ones: " in shown(lambda console: print_profile(profile, console))
