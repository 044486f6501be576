"""How often one load opens and hashes each file, counted by the interpreter's audit events and in hashlib."""

import collections
import hashlib
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import engines.device.names as device_names
import engines.loading.engine_choice as engine_choice
from engines.backends.onnxruntime import OnnxEngine
from engines.loading.load import load_engine
from engines.tensorrt import open_plan, plan_search
from engines.tensorrt.plan_files import Key, Machine, Plan, Verified, onnx_sha256, output_names
from engines.verification.bench import bench_model
from engines.verification.verify_model import verify_model
from tests.support.models.toy_models import contract, save

POSE = contract("simcc")
GPU = {"compute_capability": "8.9", "gpu": "NVIDIA L4", "driver": "580.65.06"}
VERSION = "10.15"

_opened: list[collections.Counter] = []  # counters in use: an audit hook cannot be removed


def _count_opened(event, arguments):
    if event == "open" and _opened and isinstance(arguments[0], str | bytes | Path):
        for counter in _opened:
            counter[Path(str(arguments[0])).name] += 1


sys.addaudithook(_count_opened)


class Counted:
    def __init__(self):
        self.opened = collections.Counter()
        self.hashed = collections.Counter()  # by content


@contextmanager
def counting(monkeypatch):
    counted = Counted()
    sha256, file_digest = hashlib.sha256, hashlib.file_digest

    def sha256_counted(content=b""):
        counted.hashed[bytes(content)] += 1
        return sha256(content)

    def file_digest_counted(file, name):
        content = Path(file.name).read_bytes()
        counted.opened[Path(file.name).name] -= 1  # by this line
        counted.hashed[content] += 1
        return file_digest(file, name)

    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "sha256", sha256_counted)
        patch.setattr(hashlib, "file_digest", file_digest_counted)
        _opened.append(counted.opened)
        try:
            yield counted
        finally:
            _opened.remove(counted.opened)


@pytest.fixture
def onnx(tmp_path, monkeypatch):
    """A model's file, and a machine with a GPU and both kinds of TensorRT, whose plans ONNX Runtime runs."""
    monkeypatch.setenv("POSESTREAM_HOME", str(tmp_path / "home"))
    path = save(POSE, tmp_path / "toy.onnx")
    for module in (device_names, engine_choice):
        monkeypatch.setattr(module, "cuda_devices", lambda: 1)
    monkeypatch.setattr(engine_choice, "find_spec", lambda module: module)
    for module in (plan_search, open_plan):
        monkeypatch.setattr(
            module, "this_machine", lambda flavour, gpu=0: Machine(flavour=flavour, version=VERSION, **GPU)
        )
    monkeypatch.setattr(open_plan, "flavour", lambda name: name)
    monkeypatch.setattr(
        open_plan, "TensorrtEngine", lambda flavour, plan, kernels, name, device: OnnxEngine(path)
    )
    return path


def keep_plan(onnx, flavour, age_h, *, version=VERSION, verified=True):
    content = f"{flavour} {version} {age_h}".encode()
    machine = Machine(flavour=flavour, version=version, **GPU)
    key = Key(
        **machine.model_dump(),
        onnx_sha256=onnx_sha256(onnx),
        input_size=POSE.input.size,
        outputs=output_names(POSE),
        precision="fp16",
        batch=(1, 8, 32 + age_h),
    )
    plan = Plan(
        key=key,
        contract=POSE,
        onnx=onnx,
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        built=datetime.now(UTC) - timedelta(hours=age_h),
        build_s=1.0,
        layers=3,
        verified=Verified(gpu=GPU["gpu"], driver=GPU["driver"], report={}) if verified else None,
    )
    plan.write()
    plan.path.write_bytes(content)
    return plan


@pytest.mark.parametrize(
    ("backend", "opened_plan"), [("auto", 0), ("tensorrt", 0), ("tensorrt-rtx", 2)], ids=str
)
def test_a_plan_is_searched_once_and_no_file_is_hashed_twice(onnx, monkeypatch, backend, opened_plan):
    plans = [
        keep_plan(onnx, "tensorrt", 2),
        keep_plan(onnx, "tensorrt", 1, version="10.13"),  # newer, but does not fit
        keep_plan(onnx, "tensorrt-rtx", 3),
        keep_plan(onnx, "tensorrt-rtx", 4),
    ]
    with counting(monkeypatch) as counted:
        load_engine(POSE, path=onnx, backend=backend).close()
    assert counted.opened[onnx.name] == 2  # to hash it, and to read the contract inside
    assert [counted.opened[plan.path.with_suffix(".json").name] for plan in plans] == [1] * 4
    assert [plan for plan in plans if counted.opened[plan.name]] == [plans[opened_plan]]
    assert counted.opened[plans[opened_plan].name] == 1
    assert counted.hashed[onnx.read_bytes()] == 1
    assert counted.hashed[plans[opened_plan].path.read_bytes()] == 1


def test_plans_that_fail_one_after_the_other_are_not_searched_again(onnx, monkeypatch):
    plans = [keep_plan(onnx, "tensorrt", 1), keep_plan(onnx, "tensorrt-rtx", 2)]
    for plan in plans:
        plan.path.write_bytes(b"damaged " + plan.key.flavour.encode())
    monkeypatch.setattr(engine_choice, "_providers", lambda: ["CPUExecutionProvider"])
    with counting(monkeypatch) as counted:
        assert isinstance(load_engine(POSE, path=onnx), OnnxEngine)
    assert counted.hashed[onnx.read_bytes()] == 1
    for plan in plans:
        assert counted.opened[plan.path.with_suffix(".json").name] == 1
        assert counted.opened[plan.name] == counted.hashed[plan.path.read_bytes()] == 1


@pytest.mark.parametrize(
    "load",
    [
        lambda path: load_engine(POSE, path=path),
        lambda path: verify_model(POSE, path=path),
        lambda path: bench_model(POSE, path=path, batches=[1], seconds=0.01),
    ],
    ids=["load", "verify", "bench"],
)
def test_verifying_a_plan_hashes_no_file_twice(onnx, monkeypatch, load):
    plan = keep_plan(onnx, "tensorrt", 1, verified=False)
    with counting(monkeypatch) as counted:
        load(onnx)
    assert counted.hashed[onnx.read_bytes()] == 1
    assert counted.hashed[plan.path.read_bytes()] == counted.opened[plan.name] == 1


def test_without_plans_nothing_is_hashed(onnx, monkeypatch):
    with counting(monkeypatch) as counted:
        load_engine(POSE, path=onnx, backend="onnxruntime").close()
    assert counted.opened[onnx.name] == 1  # to read the contract inside
    assert not counted.hashed
