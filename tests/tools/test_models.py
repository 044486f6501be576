"""`posestream models` with contracts and weights made here: its exit codes and messages."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import engines.contracts.config_files
from engines.assets.store import cached_path, verify
from engines.contracts.contract import load_contract
from tools.models import app, fetch_with_progress

WEIGHTS = {"one": b"weights of one" * 99, "two": b"weights of two" * 99}


def posestream_models(*args: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(args), env={"COLUMNS": "200"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture(autouse=True)
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of the only two models."""
    contract = load_contract("yolox-nano").model_dump(mode="json")
    models, shelf = tmp_path / "configs" / "models", tmp_path / "shelf"
    models.mkdir(parents=True)
    shelf.mkdir()
    for name, content in WEIGHTS.items():
        (shelf / f"{name}.onnx").write_bytes(content)
        source = {"kind": "file", "url": str(shelf / f"{name}.onnx")}
        digest = hashlib.sha256(content).hexdigest()
        weights = {"filename": f"{name}.onnx", "sha256": digest, "bytes": len(content), "sources": [source]}
        text = yaml.safe_dump({**contract, "name": name, "asset": {**weights, "sha256_from": "copy"}})
        (models / f"{name}.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setenv("POSESTREAM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("POSESTREAM_MIRROR", raising=False)
    monkeypatch.setattr(engines.contracts.config_files, "CONFIGS", tmp_path / "configs")
    load_contract.cache_clear()
    yield shelf
    load_contract.cache_clear()


def test_pull_fetches_once_and_says_so():
    assert posestream_models("pull", "one") == (0, "one: fetched and verified, 1386 bytes\n")
    assert posestream_models("pull", "one", "two", "one") == (
        0,
        "one: already here\ntwo: fetched and verified, 1386 bytes\n",
    )


def test_pull_all():
    assert posestream_models("pull", "--all")[0] == 0
    assert [verify(load_contract(name).asset) for name in WEIGHTS] == [True, True]


def test_pull_the_models_of_a_graph(tmp_path):
    graph = tmp_path / "mine.yaml"
    graph.write_text("name: mine\ngraph:\n  d: {op: decode}\n  e: {op: detect, model: two, after: d}\n")
    assert posestream_models("pull", "--graph", str(graph)) == (0, "two: fetched and verified, 1386 bytes\n")


@pytest.mark.parametrize(
    ("names", "missing", "code", "expected"),
    [
        (["tow", "one"], [], 2, "no model 'tow'; did you mean 'two'?"),
        (["two", "one"], ["two"], 1, "cannot fetch two.onnx"),
        (["two", "tow", "one"], ["two"], 2, "cannot fetch two.onnx"),
        ([], [], 2, "name a model"),
    ],
)
def test_pull_tries_every_name(shelf, names, missing, code, expected):
    for name in missing:
        (shelf / f"{name}.onnx").unlink()
    found, output = posestream_models("pull", *names)
    assert found == code
    assert expected in output
    assert bool(verify(load_contract("one").asset)) == ("one" in names)


def test_verify_finds_damage_and_names_the_command_for_it():
    assert posestream_models("verify") == (0, "")
    posestream_models("pull", "one")
    assert posestream_models("verify") == (0, "one: verified\n")
    cached_path(load_contract("one").asset).write_bytes(WEIGHTS["two"])
    assert posestream_models("verify") == (1, "one: damaged; fetch it again: posestream models pull one\n")
    assert posestream_models("pull", "one")[0] == 0
    assert posestream_models("verify", "one", "two") == (
        1,
        "one: verified\ntwo: not here; fetch it: posestream models pull two\n",
    )


def test_list():
    posestream_models("pull", "two")
    code, output = posestream_models("list", "--json")
    assert code == 0
    rows = {row["name"]: row for row in json.loads(output)}
    assert {name: row["pulled"] for name, row in rows.items()} == {"one": False, "two": True}
    assert rows["one"]["input_size"] == [416, 416]
    code, output = posestream_models("list")
    assert re.search(r"one +detect +416x416 +Apache-2.0 +0.0 +no", output)
    assert re.search(r"two +.* yes", output)


@pytest.mark.parametrize(
    ("args", "names"),
    [(["w"], ["two"]), (["o*"], ["one"]), (["--task", "detect"], ["one", "two"]), (["--task", "pose"], [])],
)
def test_list_what_is_asked_for(args, names):
    rows = json.loads(posestream_models("list", "--json", *args)[1])
    assert [row["name"] for row in rows] == names


def test_a_short_checksum_is_shown_as_such(shelf):
    path = shelf.parent / "configs" / "models" / "one.yaml"
    contract = yaml.safe_load(path.read_text(encoding="utf-8"))
    whole = contract["asset"].pop("sha256")
    del contract["asset"]["bytes"]
    path.write_text(yaml.safe_dump(contract | {"asset": contract["asset"] | {"sha256": whole[:8]}}), "utf-8")
    assert re.search(r"one .* \? +no", posestream_models("list")[1])
    output = posestream_models("show", "one")[1]
    assert f"sha256: {whole[:8]}… (its publisher states only 8 digits)" in output
    assert "file: one.onnx, of unknown size" in output
    assert posestream_models("pull", "one") == (0, "one: fetched and verified, 1386 bytes\n")
    output = posestream_models("show", "one")[1]
    assert f"states only 8 digits; the file here has {whole})" in output


def test_import_show_and_remove_a_model(shelf):
    onnx = pytest.importorskip("tests.support.models.tiny_onnx")
    path = onnx.shaped(shelf / "My own.onnx", {"image": [1, 3, 640, 640]}, {"boxes": [1, 8400, 85]})
    code, output = posestream_models("import", str(path), "--like", "one")
    assert (code, output.splitlines()[0].split(",")[0]) == (0, "my-own: fetched and verified")
    shown = posestream_models("show", "my-own")[1]
    for line in ("size: 640, 640", "colour: bgr", "architecture: yolox", "licence: not stated"):
        assert line in shown
    assert "my-own" in posestream_models("list")[1]
    assert posestream_models("remove", "my-own") == (0, "my-own: removed\n")
    assert "my-own" not in posestream_models("list")[1]
    assert path.is_file()


def test_show():
    _, output = posestream_models("show", "one")
    asset = load_contract("one").asset
    for line in (
        "colour: bgr",
        f"sha256: {asset.sha256} (taken from a copy, since its publisher states none)",
    ):
        assert line in output
    assert "on this machine: not here; posestream models pull one" in output
    posestream_models("pull", "one")
    assert f"on this machine: {cached_path(asset)}" in posestream_models("show", "one")[1]


def test_fetch_with_progress_for_the_demo(capsys):
    path = fetch_with_progress("A title", load_contract("one").asset)
    assert path.read_bytes() == WEIGHTS["one"]
    assert capsys.readouterr().out == "A title: fetched and verified, 1386 bytes\n"


def test_help_teaches():
    for command in ("list", "pull", "verify", "show", "import", "remove"):
        code, output = posestream_models(command, "--help")
        assert code == 0
        assert f"posestream models {command}" in output


def test_the_ready_models_as_a_user_calls_them(tmp_path):
    def call(*args: str) -> subprocess.CompletedProcess[str]:
        root = Path(__file__).resolve().parents[2]
        command = [sys.executable, "-m", "tools.cli", "models", *args]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, env={**os.environ})

    assert {row["pulled"] for row in json.loads(call("list", "--json").stdout)} == {False}
    unknown = call("show", "blazepose-ful")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert unknown.stderr == "posestream: no model 'blazepose-ful'; did you mean 'blazepose-full'?\n"
