"""Compiled plans on an NVIDIA GPU, by TensorRT or TensorRT for RTX.

    inputs    as the plan was built: (B, …) arrays of the host, or tensors that lie on the device
    outputs   the same kind, in rows of the inputs

A batch above the plan's largest is run in parts; one below its smallest is filled up, and the rest cut off.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.backends.base import Items, TensorSpec, put
from engines.backends.cuda import Buffer, DeviceClock, Stream
from engines.errors import EngineError
from engines.gpu import this_gpu
from engines.tensorrt.flavours import TensorRT

if TYPE_CHECKING:
    import torch

PROFILE = 0  # plans of ours have one
ALIGNMENT = 256  # bytes, of what cudaMalloc gives; kernels may rely on it


class TensorrtEngine:
    """A plan with its own execution context, stream and memory, reused from run to run."""

    def __init__(self, flavour: TensorRT, plan: bytes, kernels: Path):
        """Load a plan that was built for this machine; `kernels` keeps what is compiled at run time.

        Raises:
            EngineError: there is no GPU, or the runtime refuses the plan.
        """
        if this_gpu() is None:
            raise EngineError(
                f"{flavour.name}: no CUDA device found; see that nvidia-smi lists one and that "
                "CUDA_VISIBLE_DEVICES does not hide it, or take --backend onnxruntime"
            )
        trt = flavour.trt
        self._flavour, self._kernels = flavour, kernels
        flavour.logger.errors.clear()  # of others, which were told by then
        self._runtime = trt.Runtime(flavour.logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(f"{flavour.name} refuses the plan: {flavour.logger.reasons()}")
        self._context, self._config = flavour.context(self._engine, kernels)
        if self._context is None:
            raise EngineError(f"{flavour.name} cannot run the plan: {flavour.logger.reasons()}")
        self.inputs, self.outputs = specs(trt, self._engine)
        self._smallest, self._largest = self._range()
        self._stream: Stream | None = Stream()
        self._buffers = self._allocate()
        self._sizing = {name: _allocator(trt, self._buffers[name]) for name in self._unsized()}
        for name, allocator in self._sizing.items():
            self._context.set_output_allocator(name, allocator)
        self._clock: DeviceClock | None = None
        self.device_ns: tuple[int, int] | None = None  # of the last `run`, see `time_device`

    def time_device(self) -> None:
        """From now on, `device_ns` tells when the device began and ended the last `run`, copies included."""
        self._clock = self._clock or DeviceClock(self._open_stream())

    def run(self, inputs: Mapping[str, Items]) -> dict[str, np.ndarray]:
        """Run a batch: items (B, …) by input name to arrays (B, …) by output name.

        Raises:
            EngineError: an array does not fit the plan, or the device fails.
        """
        stream = self._open_stream()
        count = check_arrays(inputs, self.inputs)
        self.device_ns = None
        parts = [
            self._run_part({name: items[start:stop] for name, items in inputs.items()}, stop - start, stream)
            for start, stop in split(count, self._largest)
        ]
        return join(parts, self.outputs)

    def run_device(
        self, inputs: dict[str, Any], after: torch.cuda.Event | None = None
    ) -> tuple[dict[str, torch.Tensor], torch.cuda.Event]:
        """Run a batch that lies on the device, without copies and without the host waiting for anything.

        Args:
            inputs: tensors (B, …) of PyTorch, or arrays that offer DLPack, on this engine's device.
            after: the event after which they may be read.

        Returns:
            Tensors (B, …) by output name, and the event after which they may be read. Who reads them on
            another stream tells PyTorch so: `tensor.record_stream`.

        Raises:
            EngineError: a tensor does not fit the plan, there is none, or the size of an output follows from
                its content.
        """
        import torch

        if self._sizing:
            raise EngineError(
                f"sizes of {sorted(self._sizing)} are known only after a run; use run, which waits for them"
            )
        handle = self._open_stream().handle
        tensors = {name: _tensor(given) for name, given in inputs.items()}
        count = check_arrays(tensors, self.inputs)
        if count == 0:
            raise EngineError("an empty batch has no place on the device; do not run it")
        stream = torch.cuda.ExternalStream(handle)
        if after is None:
            stream.wait_stream(torch.cuda.current_stream())
        else:
            stream.wait_event(after)
        with torch.cuda.stream(stream):
            parts = [
                self._run_part_on_device({n: t[start:stop] for n, t in tensors.items()}, stop - start, handle)
                for start, stop in split(count, self._largest)
            ]
            for tensor in tensors.values():
                tensor.record_stream(stream)  # else PyTorch could reuse its memory before this stream is done
            outputs = {
                name: torch.cat([part[name] for part in parts]) if len(parts) > 1 else parts[0][name]
                for name in self.outputs
            }
            done = stream.record_event()
        return outputs, done

    def close(self) -> None:
        """Free the device's memory, and keep the kernels that were compiled."""
        if self._stream is None:
            return
        self._stream.synchronise()
        self._flavour.keep_kernels(self._config, self._kernels)
        # The order matters: each of these uses the next.
        self._context = self._config = self._engine = self._runtime = None
        if self._clock:
            self._clock.close()
        for buffer in self._buffers.values():
            buffer.close()
        self._stream.close()
        self._stream = None

    def _open_stream(self) -> Stream:
        if self._stream is None:
            raise EngineError("this engine was closed; load the model again")
        return self._stream

    def _range(self) -> tuple[int, int]:
        """The smallest and the largest batch of the plan."""
        name, spec = next(iter(self.inputs.items()))
        if spec.shape[0] != -1:
            return spec.shape[0], spec.shape[0]
        smallest, _, largest = self._engine.get_tensor_profile_shape(name, PROFILE)
        return int(smallest[0]), int(largest[0])

    def _allocate(self) -> dict[str, Buffer]:
        """Memory for the largest batch; of outputs whose size follows from their content, for the most."""
        for name, spec in self.inputs.items():
            self._context.set_input_shape(name, (self._largest, *spec.shape[1:]))
        sizes = {
            name: self._largest * int(np.prod(spec.shape[1:])) * spec.dtype.itemsize
            for name, spec in self.inputs.items()
        }
        sizes |= {name: self._context.get_max_output_size(name) for name in self.outputs}
        return {name: Buffer(max(size, 1)) for name, size in sizes.items()}

    def _unsized(self) -> list[str]:
        """Outputs whose shape is not known even when that of the inputs is."""
        return [name for name in self.outputs if -1 in self._context.get_tensor_shape(name)]

    def _run_part(self, inputs: dict[str, Items], count: int, stream: Stream) -> dict[str, np.ndarray]:
        rows = max(count, self._smallest)  # those beyond the batch hold what was there before
        if self._clock:
            self._clock.begin()
        for name, items in inputs.items():
            buffer, spec = self._buffers[name], self.inputs[name]
            put(items, buffer.host(items.shape, spec.dtype))
            buffer.upload(items.nbytes, stream)
            self._bind(name, buffer.device, (rows, *items.shape[1:]))
        for name in self.outputs.keys() - self._sizing.keys():
            self._bind(name, self._buffers[name].device)
        self._execute(stream.handle)  # after which sizes that follow from content are known
        found = {}
        for name, spec in self.outputs.items():
            sizing = self._sizing.get(name)
            shape = sizing.shape if sizing else tuple(self._context.get_tensor_shape(name))
            found[name] = self._buffers[name].host(shape, spec.dtype)
            self._buffers[name].download(found[name].nbytes, stream)
        if self._clock:
            self._clock.end()
        stream.synchronise()
        if self._clock:
            begin_ns, end_ns = self._clock.measured()
            self.device_ns = (self.device_ns[0] if self.device_ns else begin_ns, end_ns)
        return {name: array[:count].copy() for name, array in found.items()}

    def _run_part_on_device(
        self, tensors: dict[str, torch.Tensor], count: int, stream: int
    ) -> dict[str, torch.Tensor]:
        import torch

        rows = max(count, self._smallest)
        given = {name: _aligned(tensor, rows) for name, tensor in tensors.items()}
        for name, tensor in given.items():
            self._bind(name, tensor.data_ptr(), tuple(tensor.shape))
        outputs = {
            name: torch.empty(
                tuple(self._context.get_tensor_shape(name)),
                dtype=getattr(torch, spec.dtype.name),
                device="cuda",
            )
            for name, spec in self.outputs.items()
        }
        for name, tensor in outputs.items():
            self._bind(name, tensor.data_ptr())
        self._execute(stream)
        return {name: tensor[:count] for name, tensor in outputs.items()}

    def _bind(self, name: str, address: int, shape: tuple[int, ...] | None = None) -> None:
        shaped = shape is None or self._context.set_input_shape(name, shape)
        if not (shaped and self._context.set_tensor_address(name, address)):
            raise EngineError(f"{self._flavour.name} refuses {name!r}: {self._flavour.logger.reasons()}")

    def _execute(self, stream: int) -> None:
        if not self._context.execute_async_v3(stream):
            raise EngineError(f"{self._flavour.name} failed: {self._flavour.logger.reasons()}")


def specs(trt: Any, engine: Any) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
    """The inputs and the outputs of a plan; sizes that may vary are -1."""
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    both: dict[Any, dict[str, TensorSpec]] = {trt.TensorIOMode.INPUT: {}, trt.TensorIOMode.OUTPUT: {}}
    for name in names:
        shape = tuple(int(n) for n in engine.get_tensor_shape(name))
        both[engine.get_tensor_mode(name)][name] = TensorSpec(
            shape, np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
        )
    return both[trt.TensorIOMode.INPUT], both[trt.TensorIOMode.OUTPUT]


def split(count: int, largest: int) -> Iterator[tuple[int, int]]:
    """The parts, as (start, stop), in which `count` items run: as few as possible, of like size."""
    parts = -(-count // largest)
    edges = [count * i // parts for i in range(parts + 1)] if parts else []
    return itertools.pairwise(edges)


def check_arrays(arrays: Mapping[str, Any], inputs: dict[str, TensorSpec]) -> int:
    """How many items a batch has.

    Raises:
        EngineError: names, shapes or dtypes are not those of the plan; both are named.
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


def join(parts: list[dict[str, np.ndarray]], outputs: dict[str, TensorSpec]) -> dict[str, np.ndarray]:
    """The outputs of all parts as one batch; sizes that follow from content are filled up with zeros."""
    if not parts:
        return {
            name: np.zeros((0, *(max(n, 0) for n in spec.shape[1:])), spec.dtype)
            for name, spec in outputs.items()
        }
    joined = {}
    for name, spec in outputs.items():
        arrays = [part[name] for part in parts]
        sizes = np.max([array.shape[1:] for array in arrays], axis=0).astype(int)
        joined[name] = np.zeros((sum(map(len, arrays)), *sizes), spec.dtype)
        start = 0
        for array in arrays:
            inside = tuple(slice(n) for n in array.shape[1:])
            joined[name][(slice(start, start + len(array)), *inside)] = array
            start += len(array)
    return joined


def _allocator(trt: Any, buffer: Buffer) -> Any:
    """Gives TensorRT the buffer for an output whose size follows from its content, and learns that size."""

    class Allocator(trt.IOutputAllocator):  # type: ignore[misc]  # a base that is known only here
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.shape: tuple[int, ...] = ()

        def reallocate_output_async(
            self, name: str, memory: int, size: int, alignment: int, stream: int
        ) -> int | None:
            return buffer.device if size <= buffer.size else None

        def notify_shape(self, name: str, shape: Any) -> None:
            self.shape = tuple(int(n) for n in shape)

    return Allocator()


def _tensor(given: Any) -> torch.Tensor:
    import torch

    return given if isinstance(given, torch.Tensor) else torch.from_dlpack(given)


def _aligned(tensor: torch.Tensor, rows: int) -> torch.Tensor:
    """A tensor as the device wants it, a copy only if it must be: contiguous, aligned, with so many rows."""
    if len(tensor) < rows:
        filled = tensor.new_zeros((rows, *tensor.shape[1:]))
        filled[: len(tensor)] = tensor
        return filled
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone()
