"""The one interface behind which all backends run models."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np


class TensorSpec(NamedTuple):
    """A tensor of the model's real graph; sizes that may vary are -1."""

    shape: tuple[int, ...]
    dtype: np.dtype


class Engine(Protocol):
    """A model that is ready to run, used by one thread at a time."""

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run a batch: arrays by input name, first axis B, to arrays by output name, first axis B.

        A model whose graph is fixed to one item is run B times. The results belong to the caller.
        """
        ...

    def close(self) -> None:
        """Free the model's memory."""
        ...
