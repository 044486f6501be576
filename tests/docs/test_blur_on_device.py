"""The example operator on frames of a device: what it reads and writes, in which order, and in whose memory."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from engines.device.devices import open_device, thread_stream  # noqa: E402
from engines.device.image import DeviceImage  # noqa: E402
from engines.device.pool import SurfacePool  # noqa: E402
from engines.errors import EngineError  # noqa: E402
from pipeline.packet import Instances, Packet  # noqa: E402
from tests.support.devices.device_frames import samples  # noqa: E402
from tests.support.devices.toy_world import World  # noqa: E402
from tests.support.example_operator import EmulatedBlur, blur_heads  # noqa: E402

# One more than a launch takes; neighbours overlap.
HEADS = np.array([blur_heads.head_at(20 + 4 * i, 20 + 2 * i, 9) for i in range(33)], blur_heads.HEAD)
NOISE = np.random.default_rng(0).integers(0, 256, (110, 190, 3), np.uint8)


def nv12(device):
    """A frame of noise whose rows are padded."""
    stream = device.new_stream()
    y = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (110, 256), np.uint8))
    uv = torch.from_numpy(np.random.default_rng(2).integers(0, 256, (55, 256), np.uint8))
    planes = [y.to(device.torch_device)[:, :190], uv.to(device.torch_device)[:, :190].view(55, 95, 2)]
    if planes[0].is_cuda:
        torch.cuda.synchronize()  # they were made on the default stream
    return DeviceImage(planes, np.eye(3, 4, dtype=np.float32), stream.record(), device)


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "heads"), [("nv12", HEADS), ("rgb", HEADS[:2])], ids=["nv12", "rgb"])
def test_the_frame_is_blurred_in_memory_of_its_own(layout, heads):
    device = open_device("cpu")
    image = (
        nv12(device) if layout == "nv12" else SurfacePool(device, 1).from_host(NOISE, thread_stream(device))
    )
    before = samples(image)
    found = blur_heads.blur_on_device(image, heads, EmulatedBlur(device))
    for plane, wanted in zip(samples(found), blur_heads.blur_on_host(before, heads), strict=True):
        np.testing.assert_array_equal(plane, wanted)
    for plane, wanted in zip(samples(image), before, strict=True):
        np.testing.assert_array_equal(plane, wanted)
    assert (found.layout, found.shape, found.matrix is image.matrix) == (layout, image.shape, True)


class Queued:
    """A kernel on a test device: its work runs later, on the memory that the planes had."""

    def __init__(self, device):
        self.stream = device.new_stream()

    def views(self, planes):
        self._planes = [*getattr(self, "_planes", []), *(torch.from_dlpack(plane) for plane in planes)]
        return [np.asarray(plane).__array_interface__ for plane in planes]

    def launch(self, grid, block, work):
        heads = work["heads"][: work["count"]].copy()

        def run(source, to):
            for i in range(3):
                blur_heads.mosaic(source.numpy()[..., i], to.numpy()[..., i], heads)

        (source, to), self._planes = self._planes, []
        self.stream.launch(run, reads=[source], writes=[to])


@pytest.mark.parametrize("seed", range(8))
def test_no_frame_is_overwritten_before_it_is_blurred(seed):
    world = World(seed)
    device = world.device()
    decoder, drawer = device.new_stream(), device.new_stream()
    pool, kernel = SurfacePool(device, 1), Queued(device)
    found = []
    for value in range(4):
        image = pool.from_host(NOISE + np.uint8(value), decoder)
        blurred = blur_heads.blur_on_device(image, HEADS[:2], kernel)
        with blurred.reading(drawer) as (plane,):
            drawer.launch(lambda memory: found.append(memory.numpy().copy()), reads=[plane])
        del image, blurred, plane  # the next frame takes the same surface
    world.finish()
    assert world.races == []
    assert pool.allocated == 1
    for value, picture in enumerate(found):
        np.testing.assert_array_equal(
            picture, blur_heads.blur_on_host([NOISE + np.uint8(value)], HEADS[:2])[0]
        )


@pytest.mark.gpu
@pytest.mark.parametrize("library", ["pycuda", "cupy"])
def test_on_a_gpu_the_kernel_gives_the_bits_of_its_twin(library):
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    device = open_device("cuda")
    rgb = SurfacePool(device, 1).from_host(NOISE, thread_stream(device))
    keypoints = np.full((1, 17, 2), np.nan, np.float32)
    keypoints[0, :5] = [(80, 50), (83, 47), (77, 47), (88, 49), (72, 49)]
    person = Instances(
        skeleton="coco17", boxes=np.array([[60, 36, 100, 110]], np.float32), keypoints=keypoints
    )
    operator = blur_heads.BlurHeads(library=library)
    heads = blur_heads.heads_of(person, operator.min_score)
    for image in (nv12(device), rgb, rgb):
        (packet,) = operator.process([Packet("a", 0, 0, 0, (190, 110), image, person)])
        wanted = blur_heads.blur_on_host(samples(image), heads)
        for plane, by_twin in zip(samples(packet.picture), wanted, strict=True):
            np.testing.assert_array_equal(plane, by_twin)


@pytest.mark.skipif(
    find_spec("pycuda") is not None and find_spec("cupy") is not None, reason="both are installed"
)
def test_a_missing_library_is_one_line():
    kinds = {"pycuda": blur_heads.PycudaKernel, "cupy": blur_heads.CupyKernel}
    missing = next(name for name in kinds if find_spec(name) is None)
    with pytest.raises(EngineError, match=r"(pycuda|CuPy) cannot be used .*set library: (cupy|pycuda)$"):
        kinds[missing]("blur_heads", blur_heads.PARAMETERS.itemsize, open_device("cpu"))
