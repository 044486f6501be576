"""Run compiled plans on an NVIDIA GPU, with TensorRT or TensorRT for RTX.

A batch runs in one of a few sizes, called buckets; rows beyond the batch are computed and cut off. Each
bucket has its own memory at fixed addresses, allocated by PyTorch, and its own execution context, so that its
work can be recorded as a CUDA graph. A bucket is made when a batch first needs it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.backends.base import Items, TensorSpec, on_devices_like
from engines.backends.batches import Batches, Outputs, empty_shape, join, stream_behind
from engines.device.clock import DeviceClock
from engines.device.cuda_graphs import CudaGraphs
from engines.device.devices import open_device, thread_stream
from engines.device.streams import Device, Stream
from engines.errors import EngineError
from engines.tensorrt.flavours import TensorRT

if TYPE_CHECKING:
    import torch

PROFILE = 0  # our plans have a single optimisation profile


class TensorrtEngine:
    """A plan that is ready to run, on the stream of the calling thread.

    Inputs from the host go through page-locked memory, and `run` waits for the results. Inputs on a device
    give outputs on the device, and nothing waits (see `engines.backends.base.Engine.run`). Both use the same
    memory, contexts and graphs.

    If an output's size depends on its content, TensorRT itself waits for it, and no graph is recorded.
    """

    def __init__(
        self, flavour: TensorRT, plan: bytes, kernels: Path, *, name: str = "", device: str = "cuda:0"
    ):
        """Load a plan that was built for this machine.

        Args:
            flavour: of TensorRT.
            plan: the compiled file's content.
            kernels: a file that keeps the kernels that are compiled at run time.
            name: of the model, for messages; the flavour's by default.
            device: the GPU.

        Raises:
            EngineError: there is no such GPU, PyTorch is missing, or the runtime refuses the plan.
        """
        self._device: Device = open_device(device)
        self.device = self._device.name
        self._flavour, self._kernels = flavour, kernels
        flavour.logger.errors.clear()  # errors of earlier calls, which were raised then
        self._stream = thread_stream(self._device)
        with self._stream.use():  # an engine belongs to the GPU that is current while it is loaded
            self._runtime = flavour.trt.Runtime(flavour.logger)
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise EngineError(f"{flavour.name} refuses the plan: {flavour.logger.reasons()}")
            self._config = flavour.configure(self._engine, kernels)
        self.inputs, self.outputs = specs(flavour.trt, self._engine)
        self._buckets: dict[int, _Bucket] = {}
        records = self.device != "cpu" and not flavour.records_itself
        self._graphs = CudaGraphs(name or flavour.name, self._device, enabled=records)
        self._batches = Batches(name or flavour.name, self._shrink, *self._range())
        self._clock: DeviceClock | None = None

    @property
    def halved(self) -> int:
        """How often the largest batch was halved because the device's memory was too small."""
        return self._batches.halved

    def time_device(self) -> None:
        """Measure from now on when the device begins and ends each run, uploads included."""
        if self._clock is None and self.device != "cpu":
            import torch

            self._clock = DeviceClock(self._device, partial(torch.cuda.Event, enable_timing=True))

    def device_times(self) -> tuple[tuple[int, int], ...]:
        """Begin and end, monotonic ns, of the runs that the device has ended since the last call."""
        return self._clock.done() if self._clock else ()

    def run(self, inputs: Mapping[str, Items]) -> Outputs:
        """Run a batch: items (B, …) by input name to arrays or tensors (B, …) by output name.

        Raises:
            EngineError: an input does not fit the plan, the device fails, or its memory is too small even for
                the smallest batch.
        """
        if self._engine is None:
            raise EngineError("this engine was closed; load the model again")
        count = check_arrays(inputs, self.inputs)
        on_device = on_devices_like(self.device, inputs)
        stream = self._stream = stream_behind(self._stream, self._device)
        with stream.use():
            if on_device and not count:
                return self._empty_outputs()
            if self._clock and count:
                self._clock.begin(stream)
            parts = self._batches.run(count, partial(self._run_part, inputs, count, stream, on_device))
            found = join(parts, self.outputs)
            if self._clock and count:
                self._clock.end(stream)
        return found

    def close(self) -> None:
        """Free the device's memory; write the kernels that were compiled at run time to their file."""
        if self._engine is None:
            return
        self._stream.record().synchronise()
        self._flavour.save_kernels(self._config, self._kernels)
        # The order matters: each of these uses the next.
        self._graphs.forget(set(self._buckets))
        self._buckets.clear()
        self._config = self._engine = self._runtime = self._clock = None

    def _range(self) -> tuple[int, int]:
        """The smallest and the largest batch that the plan runs."""
        name, spec = next(iter(self.inputs.items()))
        if spec.shape[0] != -1:
            return spec.shape[0], spec.shape[0]
        smallest, _, largest = self._engine.get_tensor_profile_shape(name, PROFILE)
        return int(smallest[0]), int(largest[0])

    def _run_part(
        self, inputs: Mapping[str, Items], count: int, stream: Stream, on_device: bool, start: int, stop: int
    ) -> Outputs:
        rows = self._batches.bucket(stop - start)
        bucket = self._bucket(rows, stream)
        for name, items in inputs.items():
            bucket.inputs[name].fill(items, start, stop, stream)
        self._graphs.run(rows, bucket.enqueue, stream, fixed=bucket.fixed)
        found = bucket.results(stop - start)
        if not on_device:
            return self._device.download(found, stream)
        in_one_part = stop - start == count  # else the next part overwrites these rows
        return found if in_one_part else {name: tensor.clone() for name, tensor in found.items()}

    def _bucket(self, rows: int, stream: Stream) -> _Bucket:
        if rows not in self._buckets:
            context = self._flavour.context(self._engine, self._config)
            specs = (self.inputs, self.outputs)
            self._buckets[rows] = _Bucket(self._flavour, context, specs, rows, self._device, stream)
        return self._buckets[rows]

    def _shrink(self, largest: int) -> None:
        """Free the memory of larger batches, after the work in it has ended."""
        import torch

        self._stream.record().synchronise()
        dropped = {rows for rows in self._buckets if rows > largest}
        self._graphs.forget(dropped)
        for rows in dropped:
            del self._buckets[rows]
        torch.cuda.empty_cache()  # TensorRT cannot allocate from the memory that PyTorch keeps for reuse

    def _empty_outputs(self) -> dict[str, torch.Tensor]:
        import torch

        return {
            name: torch.empty(empty_shape(spec), dtype=_dtype(spec), device=self._device.torch_device)
            for name, spec in self.outputs.items()
        }


class _Bucket:
    """Runs batches of one size: an execution context, and all its memory at fixed addresses."""

    def __init__(
        self,
        flavour: TensorRT,
        context: Any,
        specs: tuple[dict[str, TensorSpec], dict[str, TensorSpec]],
        rows: int,
        device: Device,
        stream: Stream,
    ):
        from engines.backends.memory import InputMemory

        self._flavour, self._context = flavour, context
        if context is None:
            raise EngineError(f"{flavour.name} cannot run the plan: {flavour.logger.reasons()}")
        inputs, outputs = specs
        self.inputs = {name: InputMemory(spec, rows, device, stream) for name, spec in inputs.items()}
        for name, memory in self.inputs.items():
            self._require(context.set_input_shape(name, tuple(memory.tensor.shape)), name)
            self._require(context.set_tensor_address(name, memory.tensor.data_ptr()), name)
        size = context.update_device_memory_size_for_shapes()
        self._workspace = device.empty(size, stream)
        context.set_device_memory(self._workspace.data_ptr(), size)
        self._outputs: dict[str, torch.Tensor] = {}
        self._sized: dict[str, Any] = {}  # allocators of outputs whose size depends on their content
        for name, spec in outputs.items():
            shape = tuple(context.get_tensor_shape(name))
            if -1 in shape:
                room = device.empty(context.get_max_output_size(name), stream)
                self._sized[name] = _allocator(flavour.trt, room, _dtype(spec))
                self._require(context.set_output_allocator(name, self._sized[name]), name)
                continue
            room = device.empty(math.prod(shape) * spec.dtype.itemsize, stream)
            self._outputs[name] = room.view(_dtype(spec)).view(shape)
            self._require(context.set_tensor_address(name, room.data_ptr()), name)

    @property
    def fixed(self) -> bool:
        """Whether all sizes are known before a run."""
        return not self._sized

    def enqueue(self, stream: Stream) -> None:
        """Queue one run on a stream."""
        if not self._context.execute_async_v3(stream.handle):
            raise EngineError(f"{self._flavour.name} failed: {self._flavour.logger.reasons()}")

    def results(self, count: int) -> dict[str, torch.Tensor]:
        """The first `count` rows of the last run's outputs; the next run overwrites them."""
        found = self._outputs | {name: allocator.tensor() for name, allocator in self._sized.items()}
        return {name: tensor[:count] for name, tensor in found.items()}

    def _require(self, accepted: bool, name: str) -> None:
        if not accepted:
            raise EngineError(f"{self._flavour.name} refuses {name!r}: {self._flavour.logger.reasons()}")


def specs(trt: Any, engine: Any) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
    """The inputs and the outputs of a plan, by name; a size that may vary is -1."""
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    both: dict[Any, dict[str, TensorSpec]] = {trt.TensorIOMode.INPUT: {}, trt.TensorIOMode.OUTPUT: {}}
    for name in names:
        shape = tuple(int(n) for n in engine.get_tensor_shape(name))
        both[engine.get_tensor_mode(name)][name] = TensorSpec(
            shape, np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
        )
    return both[trt.TensorIOMode.INPUT], both[trt.TensorIOMode.OUTPUT]


def check_arrays(arrays: Mapping[str, Any], inputs: dict[str, TensorSpec]) -> int:
    """Check a batch against the plan's inputs; returns its number of items.

    Raises:
        EngineError: names, shapes or dtypes differ; the message names both.
    """
    if arrays.keys() != inputs.keys():
        raise EngineError(f"got inputs {sorted(arrays)}, the plan has {sorted(inputs)}")
    for name, spec in inputs.items():
        shape, dtype = tuple(arrays[name].shape), str(arrays[name].dtype).removeprefix("torch.")
        if shape[1:] != spec.shape[1:] or dtype != spec.dtype.name:
            raise EngineError(
                f"input {name!r} is {shape} {dtype}, the plan takes {('B', *spec.shape[1:])} {spec.dtype}"
            )
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) != 1:
        raise EngineError(f"inputs differ in their number of items: {counts}")
    return next(iter(counts.values()))


def _allocator(trt: Any, memory: torch.Tensor, dtype: torch.dtype) -> Any:
    """Gives TensorRT `memory` for an output whose size depends on its content, and is told this size."""

    class Allocator(trt.IOutputAllocator):  # type: ignore[misc]  # the base class is known only at run time
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self._shape: tuple[int, ...] = ()

        def reallocate_output_async(
            self, name: str, address: int, size: int, alignment: int, stream: int
        ) -> int | None:
            return memory.data_ptr() if size <= len(memory) else None

        def notify_shape(self, name: str, shape: Any) -> None:
            self._shape = tuple(int(n) for n in shape)

        def tensor(self) -> torch.Tensor:
            """What the last run wrote."""
            return memory[: math.prod(self._shape) * dtype.itemsize].view(dtype).view(self._shape)

    return Allocator()


def _dtype(spec: TensorSpec) -> torch.dtype:
    import torch

    dtype: torch.dtype = getattr(torch, spec.dtype.name)
    return dtype
