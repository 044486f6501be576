"""Read checkpoints without running code from the file, and load them into the contract's network.

A `.pth` is a pickle, and a pickle can call any function of any library while it is read. PyTorch's
`weights_only` reader allows only tensors and plain containers. Official files also hold NumPy arrays in their
`meta` (mmpose's dataset_meta). These are skipped: a class that ignores its arguments replaces NumPy's
functions. Everything else that a file asks for is refused, with its name.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.architectures import build
from engines.architectures.checkpoint_fit import check_fit
from engines.contracts.carried_contract import check_same_numbers
from engines.contracts.contract import Contract
from engines.contracts.onnx_metadata import CONTRACT, parse_contract
from engines.errors import ContractError, EngineError

if TYPE_CHECKING:
    from torch import Tensor, nn

# The keys under which publishers keep the weights, averaged weights first. mmengine's `state_dict` is
# averaged already (EMAHook swaps the averages in before it saves), and so is Megvii's `model`
# (yolox/core/trainer.py).
HOLDERS = ("state_dict", "ema", "model", "module")
PREPROCESSING = "data_preprocessor."  # mmengine's buffers for mean and std, which the contract has


class _Skipped:
    """Replaces a NumPy array, number or dtype in a checkpoint's `meta`."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


# The names under which NumPy 1 and NumPy 2 pickle them.
NUMPY = (
    "numpy.ndarray",
    "numpy.dtype",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
)


def load_checkpoint(path: Path) -> dict[str, Tensor]:
    """The weights in a file by name, on the CPU: the file's content, or the part under one of HOLDERS.

    Args:
        path: a `.safetensors` file, or any file written by torch.save.

    Raises:
        EngineError: the file is missing, damaged, or no checkpoint; or reading it would run a function, which
            is named; or PyTorch (or safetensors) is not installed.
    """
    if not path.is_file():
        raise EngineError(f"{path}: there is no such file")
    found: Any = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    weights = _unwrap(found)
    if not _are_weights(weights):
        what = (
            f"the keys {', '.join(map(str, found))[:80]}"
            if isinstance(found, Mapping)
            else f"a {type(found).__name__}"
        )
        raise EngineError(
            f"{path.name} holds {what}, expected tensors by name, or these under one of "
            f"{', '.join(HOLDERS)}; give a file of weights"
        )
    return dict(weights)


def load_weights(contract: Contract, path: Path) -> nn.Module:
    """The contract's network with all weights of a checkpoint, in evaluation mode, float32.

    Names of older mmpose versions are renamed as mmpose does. Only mmengine's mean and std are left out; they
    are compared with the contract, and so is a contract that the file carries.

    Raises:
        EngineError: see `load_checkpoint`.
        ContractError: the weights are of another network (with the differences, and the size that would fit),
            or were trained with other numbers (with both values).
    """
    import torch

    from engines.architectures.heatmap_head import current_names

    state = load_checkpoint(path)
    if (carried := read_checkpoint_contract(path)) is not None:
        check_same_numbers(contract, carried, path.name)
    _check_preprocessing(contract, state, path.name)
    state = current_names({name: it for name, it in state.items() if not name.startswith(PREPROCESSING)})
    with torch.device("meta"):  # no memory: the checkpoint's tensors become the network's
        network = build(contract)
    check_fit(contract, network, state, path.name)
    state = {name: it.float() if it.is_floating_point() else it for name, it in state.items()}
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval()


def save_checkpoint(contract: Contract, network: nn.Module, path: Path) -> None:
    """Write a network's weights as `.safetensors`, with the contract inside; all of it or nothing.

    Raises:
        EngineError: safetensors is not installed, or the name has another suffix.
    """
    if path.suffix != ".safetensors":
        raise EngineError(f"{path.name}: checkpoints are saved as .safetensors; name it so")
    try:
        from safetensors.torch import save_file
    except ModuleNotFoundError:
        raise _needs_safetensors(path) from None
    # Copies: safetensors refuses layers that share weights, as in RTMDet's head.
    state = {name: it.detach().cpu().contiguous().clone() for name, it in network.state_dict().items()}
    part = path.with_name(f".{path.name}.part")
    try:
        save_file(state, part, metadata={CONTRACT: contract.model_dump_json()})
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_checkpoint_contract(path: Path) -> Contract | None:
    """The contract that a `.safetensors` carries; None where it carries none, or for any other file.

    Raises:
        EngineError: the file is damaged, or safetensors is not installed.
        ContractError: the contract inside is not valid.
    """
    if path.suffix != ".safetensors":
        return None
    with _opened(path) as file:
        text = (file.metadata() or {}).get(CONTRACT)
    return None if text is None else parse_contract(text, path.name)


def _read_pickle(path: Path) -> Any:
    try:
        import torch
    except ModuleNotFoundError:
        raise EngineError(
            f"{path.name} is read with PyTorch, which is not installed: pip install 'posestream[torch]'"
        ) from None
    try:
        with torch.serialization.safe_globals([(_Skipped, name) for name in NUMPY]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        if isinstance(error, pickle.UnpicklingError) and (wanted := re.search(r"GLOBAL (\S+)", str(error))):
            raise EngineError(
                f"{path.name} was refused, and nothing in it was run: reading it needs {wanted[1]}, and "
                "weights need no code; save only its state dict where it comes from (OpenMMLab: "
                "tools/misc/publish_model.py)"
            ) from None
        raise _damaged(path, error) from None


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError:
        raise _needs_safetensors(path) from None
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise _damaged(path, error) from None


def _needs_safetensors(path: Path) -> EngineError:
    return EngineError(f"{path.name} needs safetensors, which is not installed: pip install safetensors")


def _damaged(path: Path, error: Exception) -> EngineError:
    lines = str(error).rpartition("WeightsUnpickler error: ")[2].strip().splitlines()
    reason = lines[0][:80] if lines else "it ends too soon"
    return EngineError(
        f"{path.name} is damaged or no checkpoint ({type(error).__name__}: {reason}); fetch it again, or "
        "check that it is the right file"
    )


def _unwrap(found: Any) -> Any:
    """The content under the keys of HOLDERS, which some publishers nest twice."""
    for _ in range(2):
        held = [found.get(key) for key in HOLDERS] if isinstance(found, Mapping) else []
        found = next((it for it in held if isinstance(it, Mapping)), found)
    return found


def _are_weights(found: Any) -> bool:
    import torch

    return (
        isinstance(found, Mapping)
        and len(found) > 0
        and all(isinstance(name, str) and isinstance(it, torch.Tensor) for name, it in found.items())
    )


def _check_preprocessing(contract: Contract, state: dict[str, Tensor], filename: str) -> None:
    for what, ours in (("mean", contract.input.mean), ("std", contract.input.std)):
        found = state.get(PREPROCESSING + what)
        if found is None:
            continue
        theirs = tuple(found.flatten().tolist())
        if len(theirs) != len(ours) or any(abs(a - b) > 1e-3 for a, b in zip(ours, theirs, strict=True)):
            raise ContractError(
                f"{contract.name}: contract says input.{what} is {ours}, {filename} was trained with "
                f"{tuple(round(value, 4) for value in theirs)}; correct the contract"
            )
