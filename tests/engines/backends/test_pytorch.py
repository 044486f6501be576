"""The PyTorch backend with inputs on the host and on a device; here the device is the CPU, too."""

import logging

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from engines.backends.base import put  # noqa: E402
from engines.backends.onnxruntime import OnnxEngine  # noqa: E402
from engines.backends.pytorch import TorchEngine  # noqa: E402
from engines.device.devices import open_device, thread_stream  # noqa: E402
from engines.device.image import DeviceImage  # noqa: E402
from engines.errors import EngineError  # noqa: E402
from engines.estimators.crops import Crops  # noqa: E402
from tests.support.models.toy_models import K, contract, save, spots  # noqa: E402

POSE = contract("heatmap")


class Network(torch.nn.Module):
    """A network whose heatmaps are every fourth pixel of its input; it has memory for `room` crops."""

    def __init__(self, room=10**9):
        super().__init__()
        self.room, self.ran = room, []

    def forward(self, batch):
        if len(batch) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.ran.append((len(batch), batch.data_ptr()))
        return {"heatmaps": batch[:, torch.arange(K) % 3, ::4, ::4]}


def engine(**network):
    opened = TorchEngine(POSE, network=Network(**network), device="cpu")
    opened._network.ran.clear()
    return opened


PICTURES = [spots((80, 60), (120, 90)), spots((30, 100), size=(160, 140))]
INDEX = np.array([0, 1, 1, 0, 0])
MATRICES = np.stack([np.array([[0.3 + n / 50, 0, -n], [0, 0.4, n - 2.0]]) for n in range(5)])


def crops(pictures=PICTURES):
    return Crops(pictures, INDEX, MATRICES, POSE.input)


def on_device():
    """The pictures in a device's memory."""
    device = open_device("cpu")
    ready = thread_stream(device).record()
    return [DeviceImage([torch.from_numpy(picture)], None, ready, device) for picture in PICTURES]


def test_all_kinds_of_input_give_the_same():
    torch_engine, name = engine(), POSE.input.name
    batch = np.asarray(crops())
    expected = batch[:, np.arange(K) % 3, ::4, ::4]
    for given, kind in [
        (batch, np.ndarray),
        (crops(), np.ndarray),
        (torch.from_numpy(batch), torch.Tensor),
        (crops(on_device()), torch.Tensor),
    ]:
        found = torch_engine.run({name: given})["maps"]
        assert isinstance(found, kind)
        np.testing.assert_allclose(np.asarray(found), expected, atol=1.01 / 255)
        np.testing.assert_array_equal(
            np.asarray(torch_engine.run({name: given[:0]})["maps"]).shape, (0, K, 16, 12)
        )


def test_crops_on_a_device_are_always_written_to_the_same_memory(monkeypatch):
    def refused(self, out, first=0):
        raise AssertionError("the crops went through the host")

    torch_engine = engine()
    monkeypatch.setattr(Crops, "write", refused)
    for count in (5, 2, 3, 5, 4):
        torch_engine.run({"in": crops(on_device())[:count]})
    counts, places = zip(*torch_engine._network.ran, strict=True)
    assert counts == (5, 2, 3, 5, 4)  # PyTorch needs no padding
    assert places[0] == places[3] != places[1]
    assert places[2] == places[4]


def test_a_later_run_does_not_change_earlier_outputs():
    torch_engine = engine()
    first = torch_engine.run({"in": crops(on_device())})["maps"]
    before = first.clone()
    torch_engine.run({"in": torch.zeros(5, 3, 64, 48)})
    assert torch.equal(first, before)
    first.zero_()


def test_images_of_host_and_device_in_one_batch_go_through_the_host():
    mixed = [PICTURES[0], on_device()[1]]
    found = engine().run({"in": crops(mixed)})["maps"]
    np.testing.assert_array_equal(found, np.asarray(crops())[:, np.arange(K) % 3, ::4, ::4])


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_out_of_memory_halves_the_batch_and_the_call_goes_on(kind, caplog):
    batch = np.random.default_rng(0).random((70, 3, 64, 48), np.float32)
    torch_engine = engine(room=16)
    with caplog.at_level(logging.WARNING, "posestream.engine"):
        found = torch_engine.run({"in": kind(batch)})["maps"]
        torch_engine.run({"in": kind(batch[:20])})
    np.testing.assert_array_equal(np.asarray(found), batch[:, np.arange(K) % 3, ::4, ::4])
    assert [count for count, _ in torch_engine._network.ran] == [16, 16, 16, 16, 6, 16, 4]
    assert torch_engine.halved == len(caplog.messages) == 2
    torch_engine._network.room = 0
    with pytest.raises(EngineError, match=r"^toy: out of device memory even for a batch of 1 \(CUDA out of"):
        torch_engine.run({"in": kind(batch)})


def test_engines_without_device_memory_take_device_inputs_through_the_host(tmp_path):
    onnx = OnnxEngine(save(POSE, tmp_path / "toy.onnx"))
    expected = onnx.run({"in": crops()})["maps"]
    for given in (crops(on_device()), torch.from_numpy(np.asarray(crops()))):
        found = onnx.run({"in": given})["maps"]
        assert isinstance(found, np.ndarray)
        np.testing.assert_allclose(found, expected, atol=1.01 / 255)


def test_items_are_written_one_by_one_for_litert():
    one = np.empty((1, 3, 64, 48), np.float32)
    for given in (crops(on_device()), torch.from_numpy(np.asarray(crops()))):
        for n in (3, 1):
            put(given, one, n)
            np.testing.assert_allclose(one, np.asarray(crops())[n : n + 1], atol=1.01 / 255)
