"""The sizes in which batches run, and what happens when the device's memory is too small."""

import logging

import numpy as np
import pytest

from engines.backends.base import TensorSpec
from engines.backends.batches import Batches, is_out_of_memory, join
from engines.errors import EngineError


class Engine:
    """Has memory for `room` items, and notes the size of each run."""

    def __init__(self, room=10**9, **sizes):
        self.room, self.ran, self.shrunk = room, [], []
        self.batches = Batches("toy", self.shrunk.append, **sizes)

    def run(self, count):
        return self.batches.run(count, self.part)

    def part(self, start, stop):
        rows = self.batches.bucket(stop - start)
        if rows > self.room:
            raise RuntimeError("CUDA out of memory.\nTried to allocate 20 MiB")
        self.ran.append((start, stop, rows))
        return {"at": np.arange(start, stop)}


@pytest.mark.parametrize(
    ("sizes", "buckets"),
    [
        ({}, {1: 1, 2: 2, 3: 4, 5: 8, 33: 64, 64: 64}),
        ({"smallest": 2, "largest": 4}, {1: 2, 2: 2, 3: 4}),
        ({"largest": 24}, {16: 16, 17: 24, 24: 24}),
        ({"smallest": 3, "largest": 100}, {1: 3, 4: 4, 65: 100}),
        ({"smallest": 1, "largest": 1}, {1: 1}),
    ],
)
def test_a_batch_is_padded_to_the_next_size(sizes, buckets):
    batches = Engine(**sizes).batches
    assert {count: batches.bucket(count) for count in buckets} == buckets


@pytest.mark.parametrize(
    ("count", "largest", "ran"),
    [
        (0, 8, []),
        (3, 8, [(0, 3, 4)]),
        (8, 8, [(0, 8, 8)]),
        (9, 8, [(0, 8, 8), (8, 9, 1)]),
        (3, 1, [(0, 1, 1), (1, 2, 1), (2, 3, 1)]),
    ],
)
def test_large_batches_run_in_parts(count, largest, ran):
    engine = Engine(largest=largest)
    parts = engine.run(count)
    assert engine.ran == ran
    assert [i for part in parts for i in part["at"]] == list(range(count))


def test_out_of_memory_halves_the_batch_that_failed_and_goes_on(caplog):
    engine = Engine(room=8)
    with caplog.at_level(logging.WARNING, "posestream.engine"):
        parts = engine.run(40)
        assert [i for part in parts for i in part["at"]] == list(range(40))
        engine.run(40)
    assert (engine.batches.largest, engine.batches.halved, engine.shrunk) == (8, 3, [32, 16, 8])
    assert {rows for _, _, rows in engine.ran} == {8}
    assert caplog.messages == [
        f"toy: out of device memory for a batch of {size}, runs at most {size // 2} at once from now on "
        "(CUDA out of memory. Tried to allocate 20 MiB)"
        for size in (64, 32, 16)
    ]


def test_running_out_of_memory_in_the_middle_loses_no_items():
    engine = Engine(largest=8)
    done = engine.run(8)
    engine.room = 4
    assert [len(part["at"]) for part in engine.run(20)] == [4] * 5
    assert len(done[0]["at"]) == 8


@pytest.mark.parametrize(("smallest", "last"), [(1, 1), (4, 4)])
def test_out_of_memory_for_the_smallest_batch_is_an_error(smallest, last):
    engine = Engine(room=0, smallest=smallest, largest=16)
    with pytest.raises(EngineError, match=f"^toy: out of device memory even for a batch of {last} .*; free"):
        engine.run(3)
    assert engine.batches.largest == last


def test_the_smallest_batch_is_tried_again_after_larger_ones_are_freed():
    """A batch of one fails while larger ones still have memory, and runs after that is freed."""
    engine = Engine()
    engine.batches._shrink = lambda largest: setattr(engine, "room", 1)
    engine.room = 0
    assert len(engine.run(1)) == 1
    assert engine.batches.halved == 1


def test_other_errors_are_not_retried():
    def part(start, stop):
        raise EngineError("the device is gone")

    engine = Engine()
    with pytest.raises(EngineError, match="gone"):
        engine.batches.run(4, part)
    assert engine.batches.halved == 0


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
        "CUDA error: out of memory",
        "tensorrt failed: Error Code 2: OutOfMemory (Requested size was 7 bytes.)",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 7",
    ],
)
def test_messages_of_libraries_that_mean_out_of_memory(message):
    assert is_out_of_memory(RuntimeError(message))
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))


def as_tensor(array):
    return pytest.importorskip("torch").from_numpy(array)


@pytest.mark.parametrize("kind", [np.asarray, as_tensor])
def test_parts_are_joined_in_order_and_padded(kind):
    outputs = {"boxes": TensorSpec((-1, -1, 2), np.dtype(np.float32))}
    parts = [
        {"boxes": kind(np.full((2, 1, 2), 1, np.float32))},
        {"boxes": kind(np.full((1, 3, 2), 2, np.float32))},
    ]
    boxes = join(parts, outputs)["boxes"]
    assert type(boxes) is type(parts[0]["boxes"])
    assert boxes[:, :, 0].tolist() == [[1, 0, 0], [1, 0, 0], [2, 2, 2]]
    assert join(parts[:1], outputs)["boxes"] is parts[0]["boxes"]
    assert join([], outputs)["boxes"].shape == (0, 0, 2)
