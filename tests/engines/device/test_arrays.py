import numpy as np

from engines.device.arrays import mean


def test_the_mean_of_float16_is_float32(arrays):
    """In float16 the sum would overflow."""
    outputs = [arrays.place({"maps": np.array([value], np.float16)}) for value in (60000, 40000)]
    found = np.asarray(mean(*outputs)["maps"])
    assert (found.tolist(), found.dtype) == ([50000], np.float32)
