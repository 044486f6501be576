"""Export checkpoints to ONNX: once, compared with PyTorch, and with the contract inside."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version as _version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from engines.assets.model_files import exported_path, is_checkpoint
from engines.assets.store import locate
from engines.backends.onnxruntime import OnnxEngine
from engines.comparison.compare import compare_engines
from engines.comparison.example_inputs import drawn_picture, examples, inputs_of
from engines.contracts.contract import Contract
from engines.contracts.onnx_metadata import (
    EXPORT,
    RANDOM,
    read_contract,
    read_notes,
    write_contract,
    write_metadata,
)
from engines.conversion.onnx_files import require, save, weight_bytes
from engines.errors import ContractError, EngineError

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn

OPSET = 18  # the lowest that PyTorch's exporter writes without a conversion
# Scale of the batch norms of random networks. At 1, RTMPose-m amplifies noise on its input 560 times, at 0.1
# 28 times, which makes FP32 and FP16 comparable.
RANDOM_SCALE = 0.1
# Models with this many bytes of weights or more are not simplified, and are compared on fewer inputs:
# simplifying Sapiens 0.3b (1.3 GB) took 12 GB of memory and 100 s, and each input takes a core one minute.
LARGE = 2**29


class Exported(NamedTuple):
    """An exported file, and how it compares with PyTorch."""

    path: Path
    difference: dict[str, float]  # by output: the largest, in the output's units
    compared_on: str
    fresh: bool  # whether this call made it

    @property
    def difference_text(self) -> str:
        """The largest difference and the inputs, for a message."""
        return f"{max(self.difference.values()):.2g}, on {self.compared_on}"


def export_model(
    contract: Contract, *, out: Path | None = None, force: bool = False, seed: int | None = None
) -> Exported:
    """Export a model to the cache, or to `out`, unless the same export is there already.

    Args:
        contract: of a model whose asset is a checkpoint.
        out: a file to write instead of the one in the cache.
        force: export again.
        seed: use random weights from this seed in place of the checkpoint's. The file's name, metadata and
            contract say so, and nothing runs it unless its path is given.

    Raises:
        AssetError: the checkpoint is not on this machine; the message names the command that fetches it.
        EngineError: a library is missing, the model is no checkpoint, or ONNX and PyTorch disagree.
    """
    if not is_checkpoint(contract):
        raise EngineError(
            f"{contract.name}: {contract.asset.filename} contains its graph and runs as it is; "
            "only checkpoints are exported"
        )
    path = out or exported_path(contract, seed)
    if not force and (done := _exported(path, contract, seed)):
        return done
    checkpoint = locate(contract.asset, name=contract.name) if seed is None else None
    return export(contract, checkpoint, path, seed=seed)


def export(contract: Contract, checkpoint: Path | None, out: Path, *, seed: int | None = None) -> Exported:
    """Write `checkpoint`, or random weights from `seed`, to the ONNX file `out`; all of it or nothing.

    Raises:
        EngineError: a library is missing, the checkpoint does not fit, or ONNX and PyTorch disagree.
    """
    _require_libraries()
    import torch

    from engines.backends.pytorch import TorchEngine

    weights = _weights_of(contract, seed)
    if seed is not None:
        network, contract = random_network(contract, seed), _as_random(contract, seed)
    elif checkpoint is not None:
        from engines.architectures.checkpoints import load_weights

        network = load_weights(contract, checkpoint)
    else:
        raise EngineError(f"{contract.name}: neither a checkpoint nor a seed for random weights")
    model = to_onnx(contract, network)
    write_contract(model, contract)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as folder:
        part = Path(folder) / out.name
        save(model, part)
        threads = torch.get_num_threads()
        reference = TorchEngine(contract, network=network, threads=threads, device="cpu")
        comparison = compare_engines(
            contract,
            reference,
            OnnxEngine(part, threads),
            trained=seed is None,
            on=examples(contract, few=weight_bytes(model) >= LARGE),
        )
        if not comparison.passed:
            raise EngineError(
                f"{contract.name}: the export differs from PyTorch: {'; '.join(comparison.lines())}; "
                "it was not kept; please report this"
            )
        difference = {name: float(error.max) for name, error in comparison.outputs.items()}
        notes = {
            "weights": weights,
            "torch": _version("torch"),
            "difference": difference,
            "compared_on": comparison.compared_on,
        }
        write_metadata(model, EXPORT, json.dumps(notes))
        save(model, part)
        for file in sorted(Path(folder).iterdir(), key=lambda file: file == part):  # the graph last
            file.replace(out.parent / file.name)
    return Exported(out, difference, comparison.compared_on, fresh=True)


def to_onnx(contract: Contract, network: nn.Module) -> onnx.ModelProto:
    """The network as an ONNX graph with a varying batch, its tensors named as in the contract."""
    import torch

    outputs = {role: output.name for role, output in contract.outputs.items()}

    class Ordered(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: Tensor) -> tuple[Tensor, ...]:
            found = self.network(image)
            return tuple(found[role] for role in outputs)

    width, height = contract.input.size
    example = torch.zeros(2, 3, height, width)  # not 1: the exporter would make it a constant
    with _quiet(), torch.inference_mode():
        program = torch.onnx.export(
            Ordered().eval(),
            (example,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[contract.input.name],
            output_names=list(outputs.values()),
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        )
    assert program is not None  # with dynamo it never is None
    return _simplified(_cleaned(program.model_proto))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings about its own deprecations and about torchvision, which is not used."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)


def random_network(contract: Contract, seed: int) -> nn.Module:
    """The network with random weights from `seed`, scaled so that signals are as large as after training."""
    import torch
    from torch import nn

    from engines.architectures import build

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        network = build(contract)
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.weight.fill_(RANDOM_SCALE)
            norm.momentum = None  # take this batch's statistics, else signals fade to denormals
            norm.train()
        if norms:
            network(torch.from_numpy(inputs_of(contract, drawn_picture())))
    return network.eval()


def _simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold constant nodes: 37 of ViTPose-s's 504 nodes, 3 of RTMPose-m's 243."""
    if weight_bytes(model) >= LARGE:
        return model
    import onnxslim

    return onnxslim.slim(model)


def _cleaned(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove the exporter's notes, which contain paths of this machine and are longer than the graph."""
    for item in [*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info]:
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    for tensor in model.graph.initializer:
        tensor.ClearField("metadata_props")
        tensor.ClearField("doc_string")
    model.graph.ClearField("metadata_props")
    model.graph.ClearField("value_info")
    model.ClearField("functions")
    model.ClearField("metadata_props")
    return model


def _as_random(contract: Contract, seed: int) -> Contract:
    """The contract of the model with random weights."""
    return contract.model_copy(
        update={
            "name": f"{contract.name}-random-{seed}",
            "title": f"{contract.title}: random weights, for timing only",
        }
    )


def _exported(path: Path, contract: Contract, seed: int | None) -> Exported | None:
    """The export in `path`, if it was made of the same weights for the same contract."""
    notes = read_notes(path)
    expected = contract if seed is None else _as_random(contract, seed)
    try:
        carried = read_contract(path)
    except ContractError:  # written by another version of posestream
        return None
    if carried != expected or notes.get("weights") != _weights_of(contract, seed):
        return None
    return Exported(path, notes["difference"], notes["compared_on"], fresh=False)


def _weights_of(contract: Contract, seed: int | None) -> str | None:
    """The note in the file that identifies the weights."""
    return contract.asset.sha256 if seed is None else f"{RANDOM}, seed {seed}"


def _require_libraries() -> None:
    for library in ("torch", "onnx", "onnxscript", "onnxslim"):
        require(library)
