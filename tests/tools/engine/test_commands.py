"""`posestream engine` export, verify and bench, as a user calls them."""

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


def test_export_prints_the_difference_and_the_file(small_home):
    code, output = engine("export", "small-rtmpose")
    assert code == 0
    first, second, third = output.splitlines()
    assert first == "small-rtmpose: already exported (--force exports it again)"
    assert "largest difference from PyTorch" in second
    assert third == str(small_home.exported.path)


def test_verify_prints_errors_in_px(small_home):
    code, output = engine("verify", "small-rtmpose")
    assert code == 0
    assert "51 keypoints: shift p95 0 px" in output
    assert "within tolerance" in output


def test_verify_of_a_wrong_file_has_exit_code_1(small_home, tmp_path):
    code, output = engine("verify", damaged(small_home, tmp_path), "--json")
    assert code == 1
    report = json.loads(output)
    assert report["passed"] is False
    assert report["meaning"]["shift_px"]["p95"] > 1


def test_bench_as_json_and_as_a_table(small_home):
    args = ["bench", small_home.exported.path, "--batch", "1,2", "--seconds", "0.02"]
    code, output = engine(*args, "--json")
    assert code == 0
    assert [row["batch"] for row in json.loads(output)["rows"]] == [1, 2]
    code, table = engine(*args)
    assert code == 0
    assert "small-rtmpose: onnxruntime, 1 thread" in table
    assert "items/s" in table


def test_wrong_arguments_are_refused(tmp_path):
    assert engine("bench", "yolox-nano", "--batch", "1,0")[0] == 2
    assert engine("bench", "yolox-nano", "--batch", "many")[0] == 2
    with pytest.raises(ContractError, match="did you mean 'yolox-nano'"):
        engine("verify", "yolox-nan")
    with pytest.raises(EngineError, match=r"none\.onnx is not there"):
        engine("verify", tmp_path / "none.onnx")
    (tmp_path / "foreign.onnx").write_bytes(b"")
    with pytest.raises(EngineError, match=r"carries no contract.*posestream models import"):
        engine("bench", tmp_path / "foreign.onnx")
