"""What differs between TensorRT and TensorRT for RTX, behind one small interface.

The two modules have the same builder, parser and runtime. TensorRT times kernels on the GPU that it builds
on; its timings are kept between builds. TensorRT for RTX builds for any GPU, on any machine, and compiles the
kernels when they first run; these are kept between runs.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from engines.device.gpus import Gpu
from engines.errors import EngineError
from engines.home import write_atomically

FlavourName = Literal["tensorrt", "tensorrt-rtx"]

log = logging.getLogger("posestream.tensorrt")


class TensorRT:
    """NVIDIA TensorRT, 10.13 and later."""

    name: FlavourName = "tensorrt"
    module = "tensorrt"
    install = "tensorrt"
    records_itself = False  # whether the library makes CUDA graphs of its own

    def __init__(self, trt: ModuleType):
        """Take the imported module."""
        self.trt: Any = trt
        self.version: str = trt.__version__
        self.logger = _logger(trt)

    def network_flags(self) -> int:
        """Types of tensors are those of the ONNX graph; from 11 on, they always are."""
        if int(self.version.partition(".")[0]) >= 11:
            return 0
        return 1 << int(self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)

    def check_target(self, compute_capability: str, gpu: Gpu | None) -> None:
        """Make sure that this flavour can build for a GPU, on the machine that has `gpu`.

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

    def aim(self, config: Any, compute_capability: str) -> None:
        """The GPU to build for is the one that is here."""

    def remember(self, config: Any, kept: Path) -> None:
        """Give the timings of earlier builds to a build."""
        cache = config.create_timing_cache(kept.read_bytes() if kept.is_file() else b"")
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)

    def keep(self, config: Any, kept: Path) -> None:
        """Keep the timings of a build for the next."""
        write_atomically(kept, bytes(config.get_timing_cache().serialize()))

    def configure(self, engine: Any, kept: Path) -> Any:
        """How an engine is executed, for `context` and, in the end, `keep_kernels`; here there is nothing."""

    def context(self, engine: Any, config: Any) -> Any:
        """What executes an engine, in memory that it is given; None if it cannot."""
        return engine.create_execution_context(self.trt.ExecutionContextAllocationStrategy.USER_MANAGED)

    def keep_kernels(self, config: Any, kept: Path) -> None:
        """Nothing is compiled at run time."""


class TensorRTForRTX(TensorRT):
    """NVIDIA TensorRT for RTX, 1.4 and later."""

    name: FlavourName = "tensorrt-rtx"
    module = "tensorrt_rtx"
    install = "tensorrt-rtx-cu13"
    records_itself = True  # only it knows when the kernels for a shape have been compiled

    def network_flags(self) -> int:
        """Types of tensors are those of the ONNX graph, always."""
        return 0

    def check_target(self, compute_capability: str, gpu: Gpu | None) -> None:
        """Make sure that this flavour can build for a GPU; none has to be here.

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

    def aim(self, config: Any, compute_capability: str) -> None:
        """Set the GPU to build for."""
        config.num_compute_capabilities = 1
        target = self.trt.ComputeCapability.__members__[_member(compute_capability)]
        config.set_compute_capability(target, 0)

    def remember(self, config: Any, kept: Path) -> None:
        """Nothing is timed in a build."""

    def keep(self, config: Any, kept: Path) -> None:
        """Nothing is timed in a build."""

    def configure(self, engine: Any, kept: Path) -> Any:
        """With the kernels that earlier runs compiled."""
        trt = self.trt
        config = engine.create_runtime_config()
        cache = config.create_runtime_cache()
        if kept.is_file() and not cache.deserialize(kept.read_bytes()):
            log.info("kernels that were kept in %s fit this machine no more; compiling them again", kept.name)
        config.set_runtime_cache(cache)
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return config

    def context(self, engine: Any, config: Any) -> Any:
        """What executes an engine, in memory that it is given; None if it cannot."""
        return engine.create_execution_context(config)

    def keep_kernels(self, config: Any, kept: Path) -> None:
        """Keep the compiled kernels for the next run."""
        write_atomically(kept, bytes(config.get_runtime_cache().serialize()))


FLAVOURS: dict[FlavourName, type[TensorRT]] = {kind.name: kind for kind in (TensorRT, TensorRTForRTX)}


def installed_flavour() -> FlavourName:
    """The flavour to take unless told: TensorRT, or that for RTX where it alone is installed."""
    there = [kind.name for kind in FLAVOURS.values() if importlib.util.find_spec(kind.module)]
    return there[0] if there else "tensorrt"


@functools.cache
def flavour(name: FlavourName) -> TensorRT:
    """The flavour by its name.

    Raises:
        EngineError: it is not installed, or what it is made of cannot be loaded.
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
            f"{name} is installed but cannot be loaded ({' '.join(str(error).split())}); "
            f"install it anew: pip install --force-reinstall {kind.install}"
        ) from None


def _member(compute_capability: str) -> str:
    return "SM" + compute_capability.replace(".", "")


def _logger(trt: Any) -> Any:
    """A logger that passes on to Python's, and remembers errors: TensorRT tells reasons nowhere else."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # a base that is known only here
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.Logger.Severity.ERROR, trt.Logger.Severity.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))
            if severity != trt.Logger.Severity.VERBOSE:
                log.debug("%s", message)

        def reasons(self) -> str:
            """What went wrong since the last call."""
            told, self.errors = "; ".join(self.errors[:3]), []
            return told or "no reason given"

    return Logger()
