"""`posestream engine` export, verify and bench, as a user meets them."""

import json

import pytest
from typer.testing import CliRunner

from engines.errors import ContractError, EngineError
from tests.engines.comparison.test_compare import damaged
from tools.engine.commands import app


def engine(*args):
    result = CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "200"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_export_tells_the_difference_and_the_file(small_home):
    code, told = engine("export", "small-rtmpose")
    assert code == 0
    first, second, third = told.splitlines()
    assert first == "small-rtmpose: already exported (--force exports it again)"
    assert "largest difference from PyTorch" in second
    assert third == str(small_home.exported.path)


def test_verify_tells_px(small_home):
    code, told = engine("verify", "small-rtmpose")
    assert code == 0
    assert "51 keypoints: shift p95 0 px" in told
    assert "within tolerance" in told


def test_verify_of_a_wrong_file_is_exit_code_1(small_home, tmp_path):
    code, told = engine("verify", damaged(small_home, tmp_path), "--json")
    assert code == 1
    report = json.loads(told)
    assert report["passed"] is False
    assert report["meaning"]["shift_px"]["p95"] > 1


def test_bench_as_json_and_as_a_table(small_home):
    args = ["bench", small_home.exported.path, "--batch", "1,2", "--seconds", "0.02"]
    code, told = engine(*args, "--json")
    assert code == 0
    assert [row["batch"] for row in json.loads(told)["rows"]] == [1, 2]
    code, table = engine(*args)
    assert code == 0
    assert "small-rtmpose: onnxruntime, 1 thread" in table
    assert "items/s" in table


def test_what_is_asked_wrongly(tmp_path):
    assert engine("bench", "yolox-nano", "--batch", "1,0")[0] == 2
    assert engine("bench", "yolox-nano", "--batch", "many")[0] == 2
    with pytest.raises(ContractError, match="did you mean 'yolox-nano'"):
        engine("verify", "yolox-nan")
    with pytest.raises(EngineError, match=r"none\.onnx is not there"):
        engine("verify", tmp_path / "none.onnx")
    (tmp_path / "foreign.onnx").write_bytes(b"")
    with pytest.raises(EngineError, match=r"carries no contract.*posestream models import"):
        engine("bench", tmp_path / "foreign.onnx")
