"""Descriptions in `configs/`, and the user's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from engines.contracts.config_files import CONFIGS
from engines.contracts.contract import available_models, load_contract
from engines.contracts.skeletons import load_skeleton
from engines.errors import ContractError


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POSESTREAM_HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    load_contract.cache_clear()
    yield tmp_path
    load_contract.cache_clear()


def write_own(own: Path, name: str, **changes) -> None:
    text = (CONFIGS / "models" / "yolox-nano.yaml").read_text(encoding="utf-8")
    data = yaml.safe_load(text) | {"name": name} | changes
    (own / "models" / f"{name}.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")


def test_the_users_models_are_found(own):
    before = available_models()
    write_own(own, "my-yolox", title="Mine")
    assert {*available_models()} - {*before} == {"my-yolox"}
    assert load_contract("my-yolox").title == "Mine"


def test_the_users_skeletons_are_found(own):
    (own / "skeletons").mkdir()
    text = "name: dot\nkeypoints: [dot]\npairs: []\nlimbs: []\nsigmas: [0.1]\n"
    (own / "skeletons" / "dot.yaml").write_text(text, encoding="utf-8")
    assert load_skeleton("dot").keypoints == ("dot",)


def test_models_of_configs_are_not_shadowed(own):
    write_own(own, "yolox-nano", title="Mine")
    with pytest.raises(
        ContractError,
        match=r"models/yolox-nano.yaml has the name of a model that posestream brings; rename it",
    ):
        load_contract("yolox-nano")
    assert load_contract("yolox-s").name == "yolox-s"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", r"broken.yaml: cannot be read: "),
        ("", "broken.yaml: Input should be"),
        ("[a]", "broken.yaml: Input should be"),
    ],
)
def test_broken_files_give_a_message_of_one_line(own, text, message):
    (own / "models" / "broken.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ContractError, match=message) as error:
        load_contract("broken")
    assert "\n" not in str(error.value)
