"""Refuse what would make the host wait for a GPU; the CPU does not wait, but the operations are the same."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# They bring a value to the host, need one of it, or give a tensor whose size hangs on values.
WAITS = {"aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::equal", "aten::lift_fresh"} | {
    "aten::nonzero", "aten::nonzero_numpy", "aten::masked_select", "aten::bincount", "aten::unique_dim",
    "aten::_unique", "aten::_unique2", "aten::unique_consecutive", "aten::repeat_interleave",
}  # fmt: skip
INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_unsafe_index"}
COPIES = {"aten::_to_copy", "aten::copy_"}


def waits(operation, args: tuple) -> str:
    """The name of an operation for whose result, or the size of it, the host waits; empty for all others."""
    name = operation._schema.name
    if name in INDEXED and any(at is not None and at.dtype == torch.bool for at in args[1]):
        return f"{name} with a mask"
    return name if name in WAITS else ""


class NoWaits(TorchDispatchMode):
    """Inside, an operation that makes the host wait is an AssertionError with its name.

    What comes from NumPy is lifted; of constants that are placed at first use, who tests a first use allows it.
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
