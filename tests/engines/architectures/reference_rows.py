"""Reference data from the publishers' own code: names, shapes and sampled outputs, one row a model."""

import gzip
import hashlib
import json
from pathlib import Path

REFERENCE = Path(__file__).with_name("reference")
# Scale of seeded weights; HRNet's many sums would explode with more.
GAIN = {"hrnet": 0.5, "vitpose": 1.5, "sapiens": 1.5}
TINY_VIT = {"embed_dims": 48, "num_layers": 2, "num_heads": 12, "feedforward_channels": 192}


def rows(family):
    """The rows of FAMILY.jsonl, one a model."""
    return [json.loads(line) for line in (REFERENCE / f"{family}.jsonl").read_text().splitlines()]


def first_names(family):
    """All names and shapes of the first row's model."""
    return gzip.decompress((REFERENCE / f"{family}.names.gz").read_bytes()).decode().splitlines()


def names_and_shapes(state):
    """A line for each entry of a state dict, sorted: `head.final_layer.bias 17`."""
    return sorted(f"{name} {'x'.join(map(str, value.shape))}".rstrip() for name, value in state.items())


def digest(lines):
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def sample(output, count=128):
    """Shape, mean, standard deviation and about `count` evenly spaced values of a tensor, as plain numbers."""
    flat = output.detach().double().flatten()
    step = max(1, len(flat) // count) | 1  # odd, so that rows are sampled at different columns
    values = [round(value, 6) for value in flat[::step].tolist()]
    return {
        "shape": list(output.shape),
        "mean": flat.mean().item(),
        "std": flat.std().item(),
        "values": values,
    }
