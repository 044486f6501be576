"""A stage that does not account for its packets is named wherever a run is shown; a run on files fails."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
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

ROOT = Path(__file__).resolve().parents[2]
SWALLOWED = "faulty took 1 packet of a that it neither gave on nor dropped"


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    nodes = {
        "numbers": {"op": "toys:Numbers"},
        "faulty": {"op": "toys:Faulty", "do": "swallow", "after": "numbers", "on_full": "block"},
        "behind": {"op": "toys:Same", "after": "faulty"},
    }
    path = tmp_path / "faulty.yaml"
    path.write_text(yaml.safe_dump({"name": "toy", "graph": nodes}))
    return path


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_run_on_files_ends_with_exit_code_1_and_says_which_stage(tmp_path, graph, processes):
    command = [sys.executable, "-m", "tools.cli", "run", "a=20", "b=20", "--graph", graph]
    done = subprocess.run(
        [*command, "--out", tmp_path / "out", "--processes", processes],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    assert f"posestream: packets are unaccounted for: {SWALLOWED}, faulty took 1 packet of b" in done.stderr
    assert done.stderr.count(f"unaccounted for: {SWALLOWED}; give every packet on") == 1  # in the summary
    assert len((tmp_path / "out" / "a.jsonl").read_text().splitlines()) == 1 + 19  # all that was given


def test_every_view_of_a_live_run_names_it(graph):
    run = Run(load_graph(graph), {"a": "20"}, live=True)
    run.start()
    stats = run.finish()
    console = Console(file=io.StringIO(), width=200)
    print_summary(stats, console)
    assert f"unaccounted for: {SWALLOWED}" in console.file.getvalue()
    stages = {stage["name"]: stage for stage in asdict(Attached(run).stages())["stages"]}
    assert stages["faulty"]["unaccounted"] == [{"stream": "a", "kind": "swallowed", "packets": 1}]
    assert stages["behind"]["unaccounted"] == []
    text, _ = scrape(make_registry(run), "")
    metric = b'posestream_stage_unaccounted_packets{kind="swallowed",stage="faulty",stream="a"} 1.0'
    assert metric in text


def test_a_profile_names_it(graph):
    profile = measure(Settings(graph, {"a": "100000@2"}, seconds=0.5, warmup_s=0.1))
    (fault,) = profile.flow.unaccounted
    assert (fault.stage, fault.stream, fault.kind, fault.packets) == ("faulty", "a", "swallowed", 1)
    assert not profile.flow.closed
    console = Console(file=io.StringIO(), width=300)
    print_profile(profile, console)
    assert f"packets are unaccounted for; {SWALLOWED}" in console.file.getvalue()


def test_the_command_profile_ends_with_exit_code_1_after_its_table(graph):
    command = [
        sys.executable,
        "-m",
        "tools.cli",
        "profile",
        graph,
        "a=100000@2",
        "--seconds",
        "0.5",
        "--warmup",
        "0",
    ]
    done = subprocess.run(
        [*command, "--no-bound"],
        env={**os.environ, "COLUMNS": "300", "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert f"packets are unaccounted for; {SWALLOWED}" in done.stdout


def test_top_names_it(graph):
    run = Run(load_graph(graph), {"a": "20"}, live=True)
    run.start()
    run.finish()
    attached = Attached(run)
    answer = Answer(0.0, attached.stages(), attached.streams())
    console = Console(file=io.StringIO(), width=200)
    console.print(Picture(answer, "http://localhost:8787"))
    assert f"packets are unaccounted for: {SWALLOWED}" in console.file.getvalue()
