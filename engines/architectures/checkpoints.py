"""Checkpoints: files of weights, read without running what is in them, and loaded to the last tensor.

A `.pth` is a pickle, and a pickle can call any function of any library while it is read. PyTorch's reader for
`weights_only` knows tensors and plain containers and refuses the rest. Official files need one thing more:
their `meta` holds numpy arrays (mmpose's dataset_meta). Those are stepped over, not built: in the place of
numpy's functions stands a class that ignores its arguments. All else that a file asks for is refused by name.
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

# Where publishers keep the weights in a file, the averaged ones first. mmengine's `state_dict` holds averaged
# ones already (EMAHook swaps them in before it saves), and Megvii's `model` too (yolox/core/trainer.py).
HOLDERS = ("state_dict", "ema", "model", "module")
PREPROCESSING = "data_preprocessor."  # mmengine's buffers: mean and std, which are the contract's business


class _Unread:
    """Stands for a numpy array, number or dtype in a checkpoint's notes."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


# As numpy 1 and numpy 2 write them.
NUMPY = (
    "numpy.ndarray",
    "numpy.dtype",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
)


def load_checkpoint(path: Path) -> dict[str, Tensor]:
    """The weights in a file by name, on the CPU: the state dict itself, or what lies in it under a usual key.

    Args:
        path: a `.safetensors`, or anything that torch.save wrote.

    Raises:
        EngineError: the file is missing, damaged, or no checkpoint; or it would have to run something to be
            read, which is named; or PyTorch (or safetensors) is not installed.
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
            f"{path.name} holds {what}, expected tensors by name, or such under one of {', '.join(HOLDERS)}; "
            "give a file of weights"
        )
    return dict(weights)


def load_weights(contract: Contract, path: Path) -> nn.Module:
    """The contract's network with the weights of a checkpoint, all of them, in evaluation mode, float32.

    Names of older mmpose versions are renamed as mmpose does. Nothing is left out but the mean and std that
    mmengine's files may carry, and these, like a contract that the file carries, are compared with this one.

    Raises:
        EngineError: see `load_checkpoint`.
        ContractError: the weights are those of another network (with what differs, and the size that would
            fit), or were trained with other numbers (with both).
    """
    import torch

    from engines.architectures.heatmap_head import current_names

    state = load_checkpoint(path)
    if (carried := read_checkpoint_contract(path)) is not None:
        check_same_numbers(contract, carried, path.name)
    _check_preprocessing(contract, state, path.name)
    state = current_names({name: it for name, it in state.items() if not name.startswith(PREPROCESSING)})
    with torch.device("meta"):  # shapes alone: the checkpoint's tensors become the network's
        network = build(contract)
    check_fit(contract, network, state, path.name)
    state = {name: it.float() if it.is_floating_point() else it for name, it in state.items()}
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval()


def save_checkpoint(contract: Contract, network: nn.Module, path: Path) -> None:
    """Write a network's weights as `.safetensors`, with the contract inside; whole or not at all.

    Raises:
        EngineError: safetensors is not installed, or the name has another suffix.
    """
    if path.suffix != ".safetensors":
        raise EngineError(f"{path.name}: checkpoints are saved as .safetensors; name it so")
    try:
        from safetensors.torch import save_file
    except ModuleNotFoundError:
        raise _needs_safetensors(path) from None
    # Copies, since layers that share weights (RTMDet's head) would be refused; by name they are all there.
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
        ContractError: what it carries is not a valid contract.
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
        with torch.serialization.safe_globals([(_Unread, name) for name in NUMPY]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        if isinstance(error, pickle.UnpicklingError) and (wanted := re.search(r"GLOBAL (\S+)", str(error))):
            raise EngineError(
                f"{path.name} was refused, and nothing in it was run: to be read it needs {wanted[1]}, and "
                "weights need no code; save its state dict alone where it comes from (OpenMMLab: "
                "tools/misc/publish_model.py)"
            ) from None
        raise _damaged(path, error) from None


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping


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
    """What lies under the usual keys, of which some publishers nest two."""
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
