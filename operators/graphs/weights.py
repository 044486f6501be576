"""Check that the weights of a graph's models are on this machine, before anything runs."""

from __future__ import annotations

from engines.assets.model_files import runnable
from engines.assets.store import is_cached
from engines.contracts.contract import load_contract
from engines.errors import AssetError
from operators.graphs.graph_files import models_in, models_named
from pipeline.graph import Graph


def check_weights(graph: Graph) -> None:
    """Refuse a graph whose weights are missing, naming all of them at once, or were not exported.

    Raises:
        AssetError: weights are missing, with the command that fetches them.
        EngineError: weights were not exported, with the command that exports them.
    """
    models = [name for name in models_in(graph) if not name.endswith(".onnx")]  # .onnx: the user's own file
    contracts = [load_contract(name) for name in models]
    missing = [contract.name for contract in contracts if not is_cached(contract.asset)]
    if missing:
        names = " ".join(missing)
        raise AssetError(f"the weights of {names} are not here; fetch them: posestream models pull {names}")
    on_torch = {  # PyTorch runs the original checkpoint, which needs no export
        name
        for node in graph.nodes
        if node.options.get("backend") == "torch"
        for name in models_named(node.options)
    }
    for contract in contracts:
        if contract.name not in on_torch:
            runnable(contract)
