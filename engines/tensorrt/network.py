"""Compile an ONNX graph to a plan, in the types that the graph has.

Networks are strongly typed: FP16 and INT8 are not options of the builder but part of the graph, as casts and
as pairs of QuantizeLinear and DequantizeLinear. TensorRT 11 supports nothing else.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

from engines.contracts.contract import Contract
from engines.errors import ContractError, EngineError, one_line
from engines.tensorrt.flavours import TensorRT

Precision = Literal["fp32", "fp16", "int8"]
Progress = Callable[[str, float], None]  # the builder's phase, and the share of the build that is done, 0..1


class Batch(NamedTuple):
    """The batch sizes that a plan runs, and the size that it is tuned for."""

    smallest: int
    usual: int
    largest: int

    @classmethod
    def parse(cls, text: str) -> Batch:
        """Read `MIN:OPT:MAX`.

        Raises:
            EngineError: it is something else.
        """
        try:
            batch = cls(*map(int, text.split(":")))
        except (TypeError, ValueError):
            batch = cls(0, 0, 0)
        if not 1 <= batch.smallest <= batch.usual <= batch.largest:
            raise EngineError(
                f"batch {text!r}: expected MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX, as in 1:8:32"
            )
        return batch

    def __str__(self) -> str:
        return ":".join(map(str, self))


ONE = Batch(1, 1, 1)


class Network:
    """A parsed graph, ready to be compiled, with the contract's input and outputs."""

    def __init__(self, flavour: TensorRT, onnx: Path, contract: Contract, precision: Precision):
        """Parse `onnx`; with fp16, convert it first.

        Raises:
            EngineError: TensorRT does not know an operator, or the graph has another precision.
            ContractError: the graph's input or outputs are not those of the contract.
        """
        trt = flavour.trt
        self._flavour, self._contract = flavour, contract
        try:
            self._builder = trt.Builder(flavour.logger)
        except TypeError:  # the binding's answer when it cannot make a builder
            raise EngineError(f"{flavour.name} does not start: {flavour.logger.reasons()}") from None
        self._network = self._builder.create_network(flavour.network_flags())
        self._parser = trt.OnnxParser(self._network, flavour.logger)  # keep it: the network uses its weights
        with tempfile.TemporaryDirectory(prefix="posestream-") as folder:
            source = _in_fp16(onnx, Path(folder)) if precision == "fp16" else onnx
            if not self._parser.parse_from_file(str(source)):
                raise EngineError(f"{onnx.name}: {flavour.name} cannot read it: {self._parser_errors()}")
        self.layers: int = self._network.num_layers
        self._check_precision(onnx, precision)
        self._input = self._check_tensors(onnx)

    @property
    def fixed(self) -> bool:
        """Whether the graph takes only a batch of one."""
        return bool(self._input.shape[0] != -1)

    def compile(self, batch: Batch, compute_capability: str, timings: Path, progress: Progress) -> bytes:
        """Compile for a GPU; minutes with TensorRT, seconds with TensorRT for RTX.

        Args:
            batch: the sizes that the plan has to run.
            compute_capability: of the GPU to build for.
            timings: the file of kernel timings from earlier builds.
            progress: called from the thread that builds.

        Raises:
            EngineError: this flavour cannot build for the GPU, or the builder fails; with its own reasons.
        """
        self._flavour.logger.errors.clear()  # errors of earlier calls, which were raised then
        builder = self._builder
        config = builder.create_builder_config()
        self._flavour.set_target(config, compute_capability)
        self._flavour.load_timings(config, timings)
        profile = builder.create_optimization_profile()
        profile.set_shape(self._input.name, *(self._shape(count) for count in batch))
        config.add_optimization_profile(profile)
        monitor = _monitor(self._flavour.trt, progress)
        config.progress_monitor = monitor
        # Build in another thread: Ctrl-C is handled by the main thread, which the builder would block.
        with ThreadPoolExecutor(1) as pool:
            building = pool.submit(builder.build_serialized_network, self._network, config)
            try:
                plan = building.result()
            except BaseException:
                monitor.stopped = True
                raise
        if plan is None:
            reasons = self._flavour.logger.reasons()
            raise EngineError(
                f"{self._contract.name}: {self._flavour.name} cannot compile it: {reasons}; "
                "--backend onnxruntime-cuda runs it as it is"
            )
        self._flavour.save_timings(config, timings)
        progress("built", 1.0)
        return bytes(plan)

    def _shape(self, count: int) -> tuple[int, ...]:
        width, height = self._contract.input.size
        one = (height, width, 3) if self._contract.input.layout == "nhwc" else (3, height, width)
        return (count, *one)

    def _parser_errors(self) -> str:
        """All nodes that are refused, not only the first."""
        errors = [self._parser.get_error(i) for i in range(self._parser.num_errors)]
        reasons = [f"{e.node_operator()} {e.node_name()!r}: {one_line(e.desc())}" for e in errors]
        return "; ".join(dict.fromkeys(reasons)) or self._flavour.logger.reasons()

    def _check_precision(self, onnx: Path, precision: Precision) -> None:
        quantise = self._flavour.trt.LayerType.QUANTIZE
        quantised = any(self._network.get_layer(i).type == quantise for i in range(self.layers))
        if precision == "int8" and not quantised:
            raise EngineError(
                f"{onnx.name} is not quantised, so it has no INT8 to compile; give an ONNX file with "
                "QuantizeLinear and DequantizeLinear from a calibration, or take --precision fp16"
            )
        if precision != "int8" and quantised:
            raise EngineError(f"{onnx.name} is quantised; compile it with --precision int8")

    def _check_tensors(self, onnx: Path) -> Any:
        """Check names and sizes; remove outputs that the contract does not name; returns the input."""
        network, contract = self._network, self._contract
        inputs = [network.get_input(i) for i in range(network.num_inputs)]
        if [tensor.name for tensor in inputs] != [contract.input.name]:
            names = [tensor.name for tensor in inputs]
            raise ContractError(
                f"{contract.name}: the contract's input is {contract.input.name!r}, {onnx.name} has {names}"
            )
        wanted = {output.name for output in contract.outputs.values()}
        outputs = [network.get_output(i) for i in range(network.num_outputs)]
        if missing := wanted - {tensor.name for tensor in outputs}:
            names = [tensor.name for tensor in outputs]
            raise ContractError(
                f"{contract.name}: the contract has outputs {sorted(missing)}, {onnx.name} has {names}"
            )
        for tensor in outputs:
            if tensor.name not in wanted:
                network.unmark_output(tensor)
        found, expected = tuple(inputs[0].shape), self._shape(-1)
        if len(found) != 4 or any(f not in (-1, e) for f, e in zip(found[1:], expected[1:], strict=True)):
            raise ContractError(
                f"{contract.name}: the contract's input is {expected}, {onnx.name} has {found}"
            )
        return inputs[0]


def _in_fp16(onnx: Path, folder: Path) -> Path:
    """Write the graph in FP16, its inputs and outputs still FP32, to a file in `folder`."""
    from engines.conversion.onnx_files import save, to_float16

    path = folder / onnx.name
    save(to_float16(onnx), path)
    return path


def _monitor(trt: Any, progress: Progress) -> Any:
    """Turns TensorRT's nested phases into one share of the build that never falls."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the base class is known only at run time
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped = False
            self._phases: dict[str, tuple[str | None, int, int]] = {}  # parent, steps, steps done
            self._share = 0.0

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._phases[name] = (parent, steps, 0)
            self._report(name)

        def step_complete(self, name: str, step: int) -> bool:
            parent, steps, _ = self._phases[name]
            self._phases[name] = (parent, steps, step + 1)
            self._report(name)
            return not self.stopped

        def phase_finish(self, name: str) -> None:
            self._phases.pop(name, None)

        def _report(self, name: str) -> None:
            self._share = max(self._share, min(self._share_after(name), 1.0))
            progress(name, self._share)

        def _share_after(self, name: str) -> float:
            parent, steps, done = self._phases[name]
            share = done / steps
            while parent in self._phases:  # a phase is part of one step of its parent
                parent, steps, done = self._phases[parent]
                share = (done + share) / steps
            return share

    return Monitor()
