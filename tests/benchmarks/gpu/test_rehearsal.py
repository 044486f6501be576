"""What runs on a GPU machine without a network, rehearsed on the CPU with the folder that travels there."""

import json
import os
import subprocess
import sys

import carry
import figures
import first
import pytest
from packing import carried

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(400)]

STAGES = {"first": [name for name, *_ in first.PARTS], "figures": list(figures.PARTS)}


@pytest.fixture
def folder(tmp_path):
    """What carry.py fills for this Python; it fits."""
    pytest.importorskip("torch")
    folder = tmp_path / "carried"
    try:
        assert carry.fill(folder, f"{sys.version_info[0]}.{sys.version_info[1]}", 60) == 0
    except carry.wheels.UnavailableError as error:
        pytest.skip(f"packages cannot be downloaded: {error}")
    except RuntimeError as error:
        pytest.skip(str(error))
    return folder


def test_both_stages_run_from_the_folder_to_the_results(folder, tmp_path):
    running = {}
    for stage in STAGES:
        home = tmp_path / stage
        home.mkdir()
        environment = {**os.environ, "TMPDIR": str(home), "HOME": str(home)}
        environment = {name: value for name, value in environment.items() if not name.startswith("PYTHON")}
        command = [sys.executable, carried.ROOT / "benchmarks" / "gpu" / f"{stage}.py", "--dry-run"]
        command += ["--carried", folder, "--out", tmp_path / "out", "--commit", "abc"]
        running[stage] = subprocess.Popen(
            command, cwd=carried.ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
    for stage, process in running.items():
        printed = process.communicate()[0]
        assert process.returncode == 0, printed
        assert (tmp_path / stage / "posestream-gpu" / "site" / "av").is_dir()
        document = json.loads((tmp_path / "out" / f"no-gpu-{stage}.json").read_text())
        assert document["dry_run"]
        assert document["machine"]["commit"] == "abc"
        assert [row["part"] for row in document["rows"]] == STAGES[stage]
        assert {row["state"] for row in document["rows"]} <= {"ok", "not run"}, printed
        assert all(row["why"] for row in document["rows"] if row["state"] == "not run")
    assert len(list((tmp_path / "out").iterdir())) == 4  # a JSON and a log each
