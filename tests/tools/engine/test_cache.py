import json
import os
from datetime import timedelta

import pytest
from typer.testing import CliRunner

from engines.device.gpus import this_gpu
from tools.cli import app
from tools.engine.cache import age_text


def run(*arguments, code=0):
    result = CliRunner().invoke(app, ["engine", *map(str, arguments)])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result.output


@pytest.fixture
def onnx(tmp_path, monkeypatch):
    """A model's ONNX file, and an empty cache."""
    pytest.importorskip("tensorrt_rtx")
    pytest.importorskip("onnx")
    from tests.support.models.compilable import landmarks_onnx

    monkeypatch.setenv("POSESTREAM_HOME", str(tmp_path / "home"))
    return landmarks_onnx(tmp_path)


def build(onnx, *options):
    ahead = ["--backend", "tensorrt-rtx", "--compute-capability", "8.9"]
    return run("build", onnx, *ahead, *options)


def listed():
    return json.loads(run("list", "--json"))


def test_build_says_what_it_did_and_list_shows_it(onnx):
    assert "built in" in build(onnx, "--precision", "fp16", "--batch", "1:2:4")
    output = build(onnx, "--precision", "fp16", "--batch", "1:2:4")
    assert "already built for any GPU of compute capability 8.9" in output
    assert "not verified yet" in output
    (row,) = listed()
    assert output.splitlines()[-1] == row["path"]
    assert (row["model"], row["precision"], row["batch"]) == ("landmarks", "fp16", "1:2:4")
    if this_gpu() is None:
        assert (row["usable"], row["stale"], row["note"]) == (
            False,
            False,
            "tensorrt-rtx: no CUDA device found",
        )
    assert "landmarks" in run("list")


def test_clean_deletes_what_is_named(onnx):
    build(onnx)
    exported = onnx.parent / "home" / "onnx" / onnx.name
    exported.parent.mkdir()
    exported.write_bytes(onnx.read_bytes())
    assert {row["backend"].split()[0] for row in listed()} == {"tensorrt-rtx", "onnx"}
    run("clean", code=2)
    run("clean", "others")
    run("clean", "--stale")
    assert len(listed()) == 2
    assert "deleted landmarks.onnx" in run("clean", "landmarks")
    assert listed() == []
    assert onnx.exists()


def test_clean_stale_deletes_damaged_plans_and_abandoned_files(onnx):
    build(onnx)
    plans = onnx.parent / "home" / "plans"
    (damaged,) = plans.glob("*.plan")
    damaged.write_bytes(b"")
    assert "damaged, build it again" in listed()[0]["note"]
    old, young = plans / ".landmarks-fp16.plan.123", plans / ".landmarks-fp16.plan.124"
    for path in (old, young):
        path.write_bytes(b"half a plan")
    os.utime(old, (0, 0))
    run("clean", "--stale")
    assert list(plans.iterdir()) == [young]  # another process may be writing it


@pytest.mark.parametrize(
    ("age", "text"),
    [
        ({"seconds": 59}, "0 min"),
        ({"minutes": 119}, "119 min"),
        ({"hours": 47}, "47 hours"),
        ({"days": 400}, "400 days"),
    ],
)
def test_ages(age, text):
    assert age_text(timedelta(**age)) == text
