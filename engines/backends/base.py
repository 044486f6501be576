"""The one interface behind which all backends run models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np


class TensorSpec(NamedTuple):
    """A tensor of the model's real graph; sizes that may vary are -1."""

    shape: tuple[int, ...]
    dtype: np.dtype


class MadeInPlace(Protocol):
    """A batch whose items are made where the engine wants them, as `engines.crops.Crops`."""

    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, …)."""
        ...

    @property
    def nbytes(self) -> int:
        """Of all items."""
        ...

    def write(self, out: np.ndarray, first: int = 0) -> None:
        """Write the items from `first` on to `out` (n, …), as many as have room there."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> MadeInPlace: ...

    def __array__(self) -> np.ndarray: ...


Items = np.ndarray | MadeInPlace


def put(items: Items, out: np.ndarray, first: int = 0) -> None:
    """Write the items from `first` on to an engine's own memory `out` (n, …), as many as have room there."""
    if isinstance(items, np.ndarray):
        np.copyto(out, items[first : first + len(out)])
    else:
        items.write(out, first)


class Engine(Protocol):
    """A model that is ready to run, used by one thread at a time."""

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]

    def run(self, inputs: Mapping[str, Items]) -> dict[str, np.ndarray]:
        """Run a batch: items by input name, first axis B, to arrays by output name, first axis B.

        A model whose graph is fixed to one item is run B times. The results belong to the caller.
        """
        ...

    def close(self) -> None:
        """Free the model's memory."""
        ...
