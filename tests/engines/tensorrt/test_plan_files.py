"""The keys of plans: what they depend on, and the reasons why a plan may not run."""

import pytest

from engines.tensorrt.plan_files import Key, Machine, differences, onnx_sha256
from tests.support.models.toy_models import contract

HERE = {
    "flavour": "tensorrt",
    "version": "10.15.1.29",
    "compute_capability": "8.9",
    "gpu": "NVIDIA L4",
    "driver": "580.65.06",
}
MODEL = {
    "onnx_sha256": "a" * 64,
    "input_size": (48, 64),
    "outputs": ("maps",),
    "precision": "fp16",
    "batch": (1, 8, 32),
}


def key(**changes):
    return Key(**HERE | MODEL | changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"precision": "fp32", "batch": (1, 1, 1)}, []),
        ({"gpu": None, "driver": None}, []),
        ({"onnx_sha256": "b" * 64}, ["ONNX file bbbbbbbbbbbb…, here aaaaaaaaaaaa…"]),
        ({"input_size": (288, 384)}, ["input size 288x384, here 48x64"]),
        ({"outputs": ("maps", "more")}, ["outputs maps, more, here maps"]),
        ({"version": "10.13.2.6"}, ["version 10.13.2.6, here 10.15.1.29"]),
        ({"builder": 0}, ["way of building 0, here 1"]),
        ({"gpu": None, "driver": None, "compute_capability": "12.0"}, ["compute capability 12.0, here 8.9"]),
        (
            {"gpu": "NVIDIA L40S", "driver": "570.10"},
            ["GPU NVIDIA L40S, here NVIDIA L4", "driver 570.10, here 580.65.06"],
        ),
    ],
)
def test_a_plan_runs_only_if_every_part_of_its_key_fits(changes, expected):
    assert differences(key(**changes), Machine(**HERE), contract("heatmap"), MODEL["onnx_sha256"]) == expected


def test_a_plan_without_its_onnx_file_fits_nowhere():
    assert differences(key(), Machine(**HERE), contract("heatmap"), None) == [
        "ONNX file aaaaaaaaaaaa…, here none"
    ]


def test_different_keys_have_different_files():
    changes = [
        *({part: "x"} for part in ("version", "compute_capability", "gpu", "driver")),
        {"onnx_sha256": "b" * 64},
        {"input_size": (288, 384)},
        {"outputs": ("maps", "more")},
        {"precision": "int8"},
        {"batch": (1, 8, 33)},
        {"flavour": "tensorrt-rtx"},
        {"builder": 0},
    ]
    digests = {key(**change).digest() for change in [{}, *changes]}
    assert len(digests) == len(changes) + 1


def test_weights_beside_an_onnx_file_change_its_checksum(tmp_path):
    onnx, weights = tmp_path / "large.onnx", tmp_path / "large.onnx.data"
    onnx.write_bytes(b"graph")
    checksums = [onnx_sha256(onnx)]
    for content in (b"weights", b"others"):
        weights.write_bytes(content)
        checksums.append(onnx_sha256(onnx))
    assert len(set(checksums)) == 3
