"""The part of first.py that runs the example operator."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

from steps import own_kernel

from engines.device.devices import open_device
from tests.support.example_operator import EmulatedBlur


class Broken(EmulatedBlur):
    """Launches nothing."""

    def launch(self, grid, block, work):
        pass


def test_without_a_gpu_it_says_so():
    rows = list(own_kernel.blur_heads(SimpleNamespace(device="cpu")))
    assert [(row["library"], row["not run"]) for row in rows] == [
        ("cupy", "there is no GPU"),
        ("pycuda", "there is no GPU"),
    ]


@pytest.mark.slow
def test_the_bits_are_compared(monkeypatch):
    monkeypatch.setattr(own_kernel, "PERSONS", 3)
    monkeypatch.setattr(own_kernel, "REPEATS", 1)
    device = open_device("cpu")
    row = own_kernel.figures(EmulatedBlur(device), device)
    assert (row["heads"], row["bits_equal"]) == (3, True)
    assert row["us"] > 0
    with pytest.raises(RuntimeError, match=r"^\d+ samples differ"):
        own_kernel.figures(Broken(device), device)
