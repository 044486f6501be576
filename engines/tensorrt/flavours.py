"""The differences between TensorRT and TensorRT for RTX, behind one small interface.

Both have the same builder, parser and runtime. TensorRT times kernels on the GPU that it builds on; the
timings are kept between builds. TensorRT for RTX builds on any machine for any GPU and compiles the kernels
when they first run; the compiled kernels are kept between runs.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from engines.device.gpus import Gpu
from engines.errors import EngineError, one_line
from engines.home import write_atomically

FlavourName = Literal["tensorrt", "tensorrt-rtx"]

log = logging.getLogger("posestream.tensorrt")


class TensorRT:
    """NVIDIA TensorRT, 10.13 and later."""

    name: FlavourName = "tensorrt"
    module = "tensorrt"
    install = "tensorrt"
    records_itself = False  # whether the library records CUDA graphs itself

    def __init__(self, trt: ModuleType):
        """Take the imported module."""
        self.trt: Any = trt
        self.version: str = trt.__version__
        self.logger = _logger(trt)

    def network_flags(self) -> int:
        """Tensors get the types that they have in the ONNX graph; from version 11 on, they always do."""
        if int(self.version.partition(".")[0]) >= 11:
            return 0
        return 1 << int(self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)

    def check_target(self, compute_capability: str, gpu: Gpu | None) -> None:
        """Check that this flavour can build for a compute capability on a machine with `gpu`.

        Raises:
            EngineError: it cannot.
        """
        if gpu is None:
            raise EngineError(
                "tensorrt: no CUDA device found, and TensorRT builds on the GPU that it builds for; build "
                "there, or ahead of time: --backend tensorrt-rtx --compute-capability (that of the target)"
            )
        if compute_capability != gpu.compute_capability:
            raise EngineError(
                f"tensorrt: cannot build for compute capability {compute_capability} on {gpu.name} with "
                f"{gpu.compute_capability}; build on the target, or take --backend tensorrt-rtx"
            )

    def set_target(self, config: Any, compute_capability: str) -> None:
        """Nothing to set: TensorRT builds for the GPU of this machine."""

    def load_timings(self, config: Any, file: Path) -> None:
        """Give a build the kernel timings of earlier builds."""
        cache = config.create_timing_cache(file.read_bytes() if file.is_file() else b"")
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)

    def save_timings(self, config: Any, file: Path) -> None:
        """Keep a build's kernel timings for the next build."""
        write_atomically(file, bytes(config.get_timing_cache().serialize()))

    def configure(self, engine: Any, kernels: Path) -> Any:
        """The runtime configuration of an engine, for `context` and `save_kernels`; TensorRT has none."""

    def context(self, engine: Any, config: Any) -> Any:
        """An execution context that works in memory from the caller; None if the library refuses."""
        return engine.create_execution_context(self.trt.ExecutionContextAllocationStrategy.USER_MANAGED)

    def save_kernels(self, config: Any, kernels: Path) -> None:
        """Nothing to keep: no kernels are compiled at run time."""


class TensorRTForRTX(TensorRT):
    """NVIDIA TensorRT for RTX, 1.4 and later."""

    name: FlavourName = "tensorrt-rtx"
    module = "tensorrt_rtx"
    install = "tensorrt-rtx-cu13"
    records_itself = True  # only the library knows when the kernels for a shape have been compiled

    def network_flags(self) -> int:
        """Tensors always get the types that they have in the ONNX graph."""
        return 0

    def check_target(self, compute_capability: str, gpu: Gpu | None) -> None:
        """Check that this flavour can build for a compute capability; the machine needs no GPU.

        Raises:
            EngineError: it cannot.
        """
        known = self.trt.ComputeCapability.__members__
        if _member(compute_capability) not in known:
            supported = ", ".join(f"{name[2:-1]}.{name[-1]}" for name in known if name.startswith("SM"))
            raise EngineError(
                f"tensorrt-rtx {self.version}: cannot build for compute capability {compute_capability}; "
                f"it can for {supported}; for other GPUs take --backend tensorrt"
            )

    def set_target(self, config: Any, compute_capability: str) -> None:
        """Set the GPU to build for.

        Raises:
            EngineError: TensorRT for RTX cannot build for it.
        """
        self.check_target(compute_capability, None)
        config.num_compute_capabilities = 1
        target = self.trt.ComputeCapability.__members__[_member(compute_capability)]
        config.set_compute_capability(target, 0)

    def load_timings(self, config: Any, file: Path) -> None:
        """Nothing to load: its builds time no kernels."""

    def save_timings(self, config: Any, file: Path) -> None:
        """Nothing to keep: its builds time no kernels."""

    def configure(self, engine: Any, kernels: Path) -> Any:
        """The runtime configuration, with the kernels that earlier runs compiled."""
        trt = self.trt
        config = engine.create_runtime_config()
        cache = config.create_runtime_cache()
        if kernels.is_file() and not cache.deserialize(kernels.read_bytes()):
            log.info("the kernels in %s do not fit this machine any more; compiling them again", kernels.name)
        config.set_runtime_cache(cache)
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return config

    def context(self, engine: Any, config: Any) -> Any:
        """An execution context that works in memory from the caller; None if the library refuses."""
        return engine.create_execution_context(config)

    def save_kernels(self, config: Any, kernels: Path) -> None:
        """Keep the compiled kernels for the next run."""
        write_atomically(kernels, bytes(config.get_runtime_cache().serialize()))


FLAVOURS: dict[FlavourName, type[TensorRT]] = {kind.name: kind for kind in (TensorRT, TensorRTForRTX)}


def installed_flavour() -> FlavourName:
    """The flavour to use by default: TensorRT, or TensorRT for RTX if only that is installed."""
    installed = [kind.name for kind in FLAVOURS.values() if importlib.util.find_spec(kind.module)]
    return installed[0] if installed else "tensorrt"


@functools.cache
def flavour(name: FlavourName) -> TensorRT:
    """The flavour by its name.

    Raises:
        EngineError: it is not installed, or its libraries cannot be loaded.
    """
    kind = FLAVOURS[name]
    try:
        return kind(importlib.import_module(kind.module))
    except ModuleNotFoundError as error:
        if error.name != kind.module:
            raise
        raise EngineError(f"{name} is not installed: pip install {kind.install}") from None
    except (ImportError, OSError) as error:
        raise EngineError(
            f"{name} is installed but cannot be loaded ({one_line(error)}); "
            f"reinstall it: pip install --force-reinstall {kind.install}"
        ) from None


def _member(compute_capability: str) -> str:
    return "SM" + compute_capability.replace(".", "")


def _logger(trt: Any) -> Any:
    """A logger that forwards to Python's and collects errors: TensorRT gives reasons nowhere else."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # the base class is known only at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.Logger.Severity.ERROR, trt.Logger.Severity.INTERNAL_ERROR):
                self.errors.append(one_line(message))
            if severity != trt.Logger.Severity.VERBOSE:
                log.debug("%s", message)

        def reasons(self) -> str:
            """The errors since the last call, in one line."""
            reasons, self.errors = "; ".join(self.errors[:3]), []
            return reasons or "no reason given"

    return Logger()
