"""The device by itself: context and streams, our two kernels, and CUDA graphs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from measuring.isolation import Row
from measuring.parts import NOT_RUN

from engines.device.cuda_bindings import call, primary_context
from engines.device.devices import open_device, thread_stream
from engines.device.image import DeviceImage
from engines.device.plane_layout import frame_bytes, planes_in
from engines.device.streams import Device, Stream
from engines.images.boxes import nms as nms_on_host
from engines.images.geometry import roi_matrices
from engines.images.model_input import Input
from engines.images.yuv import rgb_matrix
from engines.kernels import crop, nms
from steps import Place

SLEEP_CYCLES = 50_000_000  # some 25 ms
FRAME = (640, 360)  # px
FRAMES, CROPS, CROPS_DRY = 3, 80, 4  # 80 are more than one launch takes; the CPU is slow
IMAGES = 4
REPEATS = 20
CAPTURES = 30


def context_and_streams(place: Place) -> Iterator[Row]:
    """Everything uses the primary context, and a stream waits for another's event, not the host.

    Raises:
        RuntimeError: another context is current, or the wait was not as it should be.
    """
    device = open_device(place.device)
    writer, reader = device.new_stream(), device.new_stream()
    if not place.dry:
        current = call("driver", "cuCtxGetCurrent")
        with primary_context(device.torch_device.index):
            primary = call("driver", "cuCtxGetCurrent")
        if int(primary) != int(current):
            raise RuntimeError(f"the current context is {int(current):#x}, the primary one {int(primary):#x}")
    memory = device.empty(1 << 20, writer)
    start = time.perf_counter()
    with writer.use():
        if not place.dry:
            torch.cuda._sleep(SLEEP_CYCLES)
        memory.fill_(7)
    written = writer.record()
    reader.wait(written)
    queued_s = time.perf_counter() - start
    if not place.dry and written.completed():
        raise RuntimeError("the host has waited while work was queued, or the device did not sleep")
    found = device.download({"": memory}, reader)[""]
    if not (found == 7).all():
        raise RuntimeError("a stream has read memory before another's write was done")
    total = time.perf_counter() - start
    yield {"queued_ms": round(queued_s * 1e3, 2), "waited_ms": round(total * 1e3, 2)}


def kernel_crop(place: Place) -> Iterator[Row]:
    """The kernel's crops of noise have the same bits as those of PyTorch's operations.

    Raises:
        RuntimeError: the bits differ, or the kernel cannot run.
    """
    device = open_device(place.device)
    stream = thread_stream(device)
    random, count = np.random.default_rng(0), CROPS_DRY if place.dry else CROPS
    images = [noise(device, FRAME, seed) for seed in range(FRAMES)]
    width, height = images[0].shape[1], images[0].shape[0]
    low, high = (0, 0, 40, 40, -3), (width, height, 600, 800, 3)
    matrices = roi_matrices(random.uniform(low, high, (count, 5)), (192, 256))
    index = random.integers(0, FRAMES, count)
    given = Input(name="image", size=(192, 256), layout="nchw", colour="rgb", mean=(123.7, 116.3, 103.5),
                  std=(58.4, 57.1, 57.4), placement="centre", pad_value=114)  # fmt: skip
    kernel = _kernel("crop", device, crop.PARAMETERS)
    for dtype in (torch.float32, torch.float16):
        outputs = [torch.full((count, 3, 256, 192), 7, dtype=dtype, device=device.torch_device)
                   for _ in range(2)]  # fmt: skip
        stream.wait(_after(device))
        for used, out in zip((kernel, None), outputs, strict=True):
            with mock.patch.object(crop, "kernel_for", return_value=used):
                crop.write_crops(images, index, matrices, given, out, stream)
        by_kernel, by_torch = device.download(dict(zip("kt", outputs, strict=True)), stream).values()
        differ = int((by_kernel != by_torch).sum())
        if differ:
            worst = np.abs(by_kernel.astype(np.float32) - by_torch.astype(np.float32)).max()
            raise RuntimeError(f"{dtype}: {differ} of {by_kernel.size} values differ, by {worst:g} at most")

        def again(out: torch.Tensor = outputs[0]) -> None:
            with mock.patch.object(crop, "kernel_for", return_value=kernel):
                crop.write_crops(images, index, matrices, given, out, stream)

        us = _microseconds(again, stream, 1 if place.dry else REPEATS)
        yield {"dtype": str(dtype).removeprefix("torch."), "crops": count, "bits_equal": True, "us": us}


def kernel_nms(place: Place) -> Iterator[Row]:
    """The kernel keeps the boxes that OpenCV keeps on the host.

    Raises:
        RuntimeError: it keeps others, or cannot run.
    """
    device = open_device(place.device)
    stream = thread_stream(device)
    kernel = _kernel("nms", device, nms.PARAMETERS)
    random = np.random.default_rng(0)
    for count, classes, max_iou in ((300, 1, 0.7), (1024, 3, 0.65))[: 1 if place.dry else 2]:
        centres = random.uniform(0, 1000, (IMAGES, count // 7, 2))
        start = centres[:, random.integers(0, count // 7, count)] + random.normal(0, 8, (IMAGES, count, 2))
        boxes = np.concatenate([start, start + random.uniform(40, 200, start.shape)], 2).astype(np.float32)
        scores = -np.sort(-random.uniform(0.05, 1, (IMAGES, count))).astype(np.float32)
        labels = random.integers(0, classes, (IMAGES, count))
        with stream.use():
            given = [torch.from_numpy(array).to(device.torch_device) for array in (boxes, scores, labels)]
        with mock.patch.object(nms, "kernel_for", return_value=kernel):
            kept = nms.suppress(*given, max_iou, stream)
            assert kept is not None  # there is a kernel
            found = device.download({"": kept}, stream)[""]
            again = partial(nms.suppress, *given, max_iou, stream)
            us = _microseconds(again, stream, 1 if place.dry else REPEATS)
        for n in range(IMAGES):
            expected = np.sort(nms_on_host(boxes[n], scores[n], labels[n], max_iou))
            if not np.array_equal(np.flatnonzero(found[n]), expected):
                raise RuntimeError(f"of {count} boxes {found[n].sum()} are kept, expected {len(expected)}")
        yield {"boxes": count, "images": IMAGES, "kept": int(found.sum()), "equal": True, "us": us}


def graph_capture(place: Place) -> Iterator[Row]:
    """CUDA graphs are recorded and replayed while another thread allocates, copies and asks for events.

    Raises:
        RuntimeError: a graph gives a wrong result, or the other thread fails.
        EngineError: CUDA cannot record a graph.
    """
    if place.dry:
        yield {NOT_RUN: "CUDA graphs need a GPU"}
        return
    from engines.device.cuda_graphs import CudaGraph

    device = open_device(place.device)
    stopped, busy, errors = threading.Event(), threading.Event(), list[BaseException]()
    rounds = 0

    def disturb() -> None:
        nonlocal rounds
        try:
            stream = thread_stream(device)
            while not stopped.is_set():
                memory = device.empty(1 + 1000 * (rounds % 5000), stream)
                with stream.use():
                    memory.zero_()
                stream.record().completed()
                device.download({"": memory[:1]}, stream)
                device.pinned(1 << 12)
                rounds += 1
                busy.set()
        except BaseException as error:
            errors.append(error)
            busy.set()

    other = threading.Thread(target=disturb)
    other.start()
    busy.wait(20)
    stream, recording = thread_stream(device), device.new_stream()
    total = torch.zeros(1 << 16, device=device.torch_device)
    stream.wait(_after(device))

    def enqueue(to: Stream) -> None:
        with to.use():
            for _ in range(10):
                total.add_(1)

    try:
        enqueue(stream)
        for _ in range(CAPTURES):
            CudaGraph(enqueue, recording).launch(stream)
        found = device.download({"": total}, stream)[""]
    finally:
        stopped.set()
        other.join(20)
    if errors:
        raise RuntimeError(f"the other thread failed: {errors[0]}")
    if not (found == 10 * (CAPTURES + 1)).all():
        raise RuntimeError(f"{CAPTURES} graphs gave {found[0]:g}, expected {10 * (CAPTURES + 1)}")
    yield {"captures": CAPTURES, "rounds_of_the_other_thread": rounds}


def _kernel(name: str, device: Device, parameters: np.dtype) -> Any:
    """The kernel on the GPU; for a dry run, compiled for the CPU."""
    if device.name == "cpu":
        from tests.support.devices.cuda_emulator import emulated

        torch.set_num_threads(1)  # on small tensors, several only wait for each other
        return emulated(name, parameters)
    from engines.kernels.nvrtc import Kernel

    return Kernel(name, device.torch_device.index, parameters)


def noise(device: Device, size: tuple[int, int], seed: int) -> DeviceImage:
    """A frame of noise as NVDEC gives it: NV12; `size` is width and height in px."""
    stream = thread_stream(device)
    values = np.random.default_rng(seed).integers(0, 256, frame_bytes("nv12", size), np.uint8)
    with stream.use():
        memory = torch.from_numpy(values).to(device.torch_device)
    matrix = rgb_matrix("bt709", full_range=False)
    return DeviceImage(planes_in(memory, "nv12", size), matrix, stream.record(), device)


def _after(device: Device) -> Any:
    """The event after the work that this thread has queued on its stream."""
    return thread_stream(device).record()


def _microseconds(work: Callable[[], Any], stream: Any, repeats: int) -> float:
    """The mean time of work that is queued several times, µs."""
    work()
    stream.record().synchronise()
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    stream.record().synchronise()
    return round((time.perf_counter() - start) / repeats * 1e6, 1)
