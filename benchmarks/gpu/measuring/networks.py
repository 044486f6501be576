"""The two models of the benchmark, their plans, and their speed without a graph around them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.assets.model_files import find_model, is_checkpoint, runnable
from engines.assets.store import MIRROR, fetch, is_cached
from engines.contracts.contract import Contract, load_contract
from engines.errors import AssetError
from measuring.isolation import Row
from measuring.torch_networks import SEED, WAYS, compiled, network_of, torch_engine

if TYPE_CHECKING:
    from engines.backends.base import Engine

MIN_RUNS = 3
WARM = 4  # runs of each batch size before it is measured; the second one records a CUDA graph
AHEAD = 8  # runs that the host queues before it waits for the device


TRAINED = "trained"
RANDOM = f"random, seed {SEED}"


@dataclass(frozen=True)
class Model:
    """A model, where its weights are from, and what runs it: a backend, or one of `torch_networks.WAYS`.

    `path` is that of an ONNX file; with one of `WAYS`, it is the model's name.
    """

    path: str
    weights: str
    backend: str = "onnxruntime"

    def by(self, backend: str) -> Model:
        """The same model with another backend."""
        return replace(self, backend=backend)

    @property
    def torch_way(self) -> dict[str, tuple[str, bool]]:
        """For `torch_networks.in_operators`; empty if a backend runs the model's file."""
        return {self.path: (self.backend, self.weights == TRAINED)} if self.backend in WAYS else {}

    def open(self, device: str) -> Engine:
        """The engine that runs it on a device.

        Raises:
            AssetError, EngineError, ContractError: as `load_engine` and `torch_engine`.
        """
        from engines.loading.load import load_engine

        contract, path = find_model(self.path)
        if self.backend in WAYS:
            return torch_engine(contract, self.backend, device, trained=self.weights == TRAINED)
        more: dict[str, Any] = {} if device == "cpu" else {"device": device}
        return load_engine(contract, path=path, backend=self.backend, **more)  # type: ignore[arg-type]


def exported(name: str) -> Iterator[Row]:
    """A model as an ONNX file with its contract; trained weights if the cache or the mirror has them."""
    if name.endswith(".onnx"):
        contract, path = find_model(name)
        yield {"path": str(path), "weights": f"those of {Path(name).name}"}
        return
    contract = load_contract(name)
    trained = _is_here(contract)
    if trained and not is_checkpoint(contract):
        yield {"path": str(runnable(contract)), "weights": TRAINED}
        return
    from engines.conversion.export import export_model

    done = export_model(contract, seed=None if trained else SEED)
    yield {"path": str(done.path), "weights": TRAINED if trained else RANDOM}


def named(name: str, way: str) -> Iterator[Row]:
    """A model by its name, for one of `WAYS`; trained weights if its checkpoint can be had here."""
    if name.endswith(".onnx"):
        raise ValueError(f"PyTorch runs models by their names, not files such as {Path(name).name}")
    contract = load_contract(name)
    trained = is_checkpoint(contract) and _is_here(contract)
    network_of(contract, trained=trained)
    yield {"path": name, "weights": TRAINED if trained else RANDOM, "backend": way}


def _is_here(contract: Contract) -> bool:
    if not is_cached(contract.asset) and os.environ.get(MIRROR):
        try:
            fetch(contract.asset)
        except AssetError:
            return False
    return is_cached(contract.asset)


def built(model: Model, batches: Sequence[int]) -> Iterator[Row]:
    """Build a model's FP16 plan for these batches; it is kept if it agrees with ONNX Runtime."""
    from engines.tensorrt.network import Batch
    from engines.tensorrt.plan_builder import build_plan

    contract, path = find_model(model.path)
    assert path is not None
    batch = Batch(1, sorted(batches)[len(batches) // 2], max(batches))
    plan, fresh = build_plan(contract, path, model.backend, "fp16", batch)  # type: ignore[arg-type]
    yield {"build_s": plan.build_s, "built_now": fresh, "plan_mb": round(plan.size / 1e6, 1)}


def in_half(model: Model, folder: str) -> Iterator[Row]:
    """The model's ONNX graph in FP16, for backends that run the graph unchanged."""
    from engines.conversion.onnx_files import save, to_float16

    path = Path(folder, Path(model.path).name)
    save(to_float16(Path(model.path)), path)
    yield {"path": str(path)}


def alone(model: Model, device: str, batches: Sequence[int], seconds: float) -> Iterator[Row]:
    """Items/s by batch size; inputs and outputs stay on the device."""
    engine = model.open(device)
    name, spec = next(iter(engine.inputs.items()))
    try:
        for batch in batches:
            items = np.random.default_rng(0).normal(size=(batch, *spec.shape[1:])).astype(spec.dtype)
            given, wait = _placed(items, device)
            yield _measured(batch, seconds, partial(engine.run, {name: given}), wait)
    finally:
        engine.close()


def by_onnxruntime(model: Model, device: str, batches: Sequence[int], seconds: float) -> Iterator[Row]:
    """Items/s of ONNX Runtime's CUDA provider by batch size; inputs and outputs stay on the device.

    Our own backend copies them through the host; the library's own speed is the fairer comparison.
    """
    import onnxruntime

    from engines.backends.onnxruntime import load_cuda

    if reason := no_cuda_provider():
        raise RuntimeError(reason)
    load_cuda()
    options = {"device_id": int(device.partition(":")[2]), "cudnn_conv_algo_search": "HEURISTIC"}
    session = onnxruntime.InferenceSession(model.path, providers=[("CUDAExecutionProvider", options)])
    if session.get_providers()[0] != "CUDAExecutionProvider":
        raise RuntimeError(
            "ONNX Runtime's CUDA provider does not start here: it needs other versions of CUDA or cuDNN"
        )
    given = session.get_inputs()[0]
    for batch in batches:
        items = np.random.default_rng(0).normal(size=(batch, *given.shape[1:])).astype(np.float32)
        value = onnxruntime.OrtValue.ortvalue_from_numpy(items, "cuda", options["device_id"])
        binding = session.io_binding()
        binding.bind_ortvalue_input(given.name, value)
        for output in session.get_outputs():
            binding.bind_output(output.name, "cuda", options["device_id"])
        yield _measured(batch, seconds, partial(session.run_with_iobinding, binding), lambda: None)


def no_cuda_provider() -> str:
    """Why ONNX Runtime cannot use a GPU here; "" if it can."""
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return ""
    return f"this onnxruntime ({onnxruntime.__version__}) has no CUDA provider; onnxruntime-gpu has"


def by_compiler(model: Model, device: str, batches: Sequence[int], seconds: float) -> Iterator[Row]:
    """Items/s of torch.compile by batch size, in FP16 (CPU: FP32); each batch size is compiled by itself."""
    import torch

    contract, _ = find_model(model.path)
    on_cpu = device == "cpu"
    half = torch.float32 if on_cpu else torch.float16
    # The time does not depend on the weights, and random ones need no checkpoint.
    network = network_of(contract, trained=False).to(device, half, memory_format=torch.channels_last)
    quick = compiled(network, on_cpu=on_cpu, graphs=True)
    width, height = contract.input.size
    with torch.inference_mode():
        for batch in batches:
            items = np.random.default_rng(0).normal(size=(batch, 3, height, width)).astype(np.float32)
            given, wait = _placed(items, device)
            given = torch.as_tensor(given).to(half).contiguous(memory_format=torch.channels_last)
            yield _measured(batch, seconds, partial(quick, given), wait)


def _placed(items: np.ndarray, device: str) -> tuple[Any, Callable[[], None]]:
    """The items on a device, and a function that waits for the device's work; on the CPU the array itself."""
    if device == "cpu":
        return items, lambda: None
    import torch

    from engines.device.devices import open_device, thread_stream

    stream = thread_stream(open_device(device))
    return torch.from_numpy(items).to(device), lambda: stream.record().synchronise()


def _measured(batch: int, seconds: float, run: Callable[[], Any], wait: Callable[[], None]) -> Row:
    """Throughput with several runs queued ahead, and latency of single runs that are waited for."""
    for _ in range(WARM):
        run()
    wait()
    times = [_timed(run, wait) for _ in range(MIN_RUNS)]
    start, runs = time.perf_counter(), 0
    while runs < MIN_RUNS or time.perf_counter() - start < seconds:
        for _ in range(AHEAD):
            run()
        runs += AHEAD
        wait()
    took = time.perf_counter() - start
    end = time.perf_counter() + seconds / 3
    while time.perf_counter() < end:
        times.append(_timed(run, wait))
    p50, p99 = np.percentile(times, [50, 99]) * 1e3
    rate = round(batch * runs / took, 1)
    return {"batch": batch, "items_per_s": rate, "p50_ms": round(p50, 3), "p99_ms": round(p99, 3)}


def _timed(run: Callable[[], Any], wait: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start
