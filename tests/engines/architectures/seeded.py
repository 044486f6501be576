"""Weights drawn from a seed, so that our network and the reference have the same ones without a file."""

import zlib

import numpy as np
import torch
from torch import nn

GAIN = 1.5  # keeps activations from vanishing or exploding over the depth of these networks


def fill(module: nn.Module, gain: float = GAIN) -> nn.Module:
    """Fill each entry of the state dict with random values; the seed is the CRC-32 of its name.

    Matrices and kernels: normal, standard deviation gain / sqrt(inputs of one output). Vectors: factors and
    variances uniform in 0.5..1.5, all others normal with standard deviation 0.1. Integers (counters): 1.
    """
    state = module.state_dict()
    for name in sorted(state):
        tensor = state[name]
        shape = tuple(tensor.shape)
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        if not tensor.is_floating_point():
            values = np.ones(shape)
        elif len(shape) > 1:
            values = rng.standard_normal(shape) * gain / np.sqrt(np.prod(shape[1:]))
        elif name.rpartition(".")[2] in ("weight", "running_var", "g", "scale"):
            values = rng.uniform(0.5, 1.5, shape)
        else:
            values = rng.standard_normal(shape) * 0.1
        with torch.no_grad():
            tensor.copy_(torch.from_numpy(np.asarray(values)))
    return module


def image(*shape: int, seed: int = 0) -> torch.Tensor:
    """A batch (B, 3, H, W) of standard normal noise."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))
