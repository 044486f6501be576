"""Find operations of PyTorch for which the host would wait on a GPU; the tests run them on the CPU."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# These copy a value to the host or from it, or return a tensor whose size depends on values.
WAITS = {"aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::equal", "aten::lift_fresh"} | {
    "aten::nonzero", "aten::nonzero_numpy", "aten::masked_select", "aten::bincount", "aten::unique_dim",
    "aten::_unique", "aten::_unique2", "aten::unique_consecutive", "aten::repeat_interleave",
}  # fmt: skip
INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_unsafe_index"}
COPIES = {"aten::_to_copy", "aten::copy_"}


def waits(operation, args: tuple) -> str:
    """The name of an operation for whose result, or its size, the host waits; "" for other operations."""
    name = operation._schema.name
    if name in INDEXED and any(at is not None and at.dtype == torch.bool for at in args[1]):
        return f"{name} with a mask"
    return name if name in WAITS else ""


class NoWaits(TorchDispatchMode):
    """Inside, an operation for which the host waits raises an AssertionError with its name.

    Args:
        lifts: allow `aten::lift_fresh`, which makes a tensor of a NumPy array: a first use does so for its
            constants.
    """

    def __init__(self, *, lifts: bool = False):
        super().__init__()
        self._allowed = "aten::lift_fresh" if lifts else ""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name
        result = function(*args, **(kwargs or {}))
        between = name in COPIES and {one.device for one in (result, *args) if torch.is_tensor(one)}
        assert waits(function, args) in ("", self._allowed), waits(function, args)
        assert not between or len(between) == 1, f"{name} between {between}"
        return result
