"""Which events of a profiler's trace are counted."""

from measuring.cuda_trace import CudaTrace

SECOND = 1_000_000  # the trace's clock counts µs


def event(at_s, kind, name, **arguments):
    return {"ph": "X", "ts": at_s * SECOND, "cat": kind, "name": name, "args": arguments}


def test_copies_and_waits_between_two_moments():
    found = CudaTrace()
    events = [
        event(1, "gpu_memcpy", "Memcpy HtoD (Pinned -> Device)", bytes=100),
        event(2, "gpu_memcpy", "Memcpy HtoD (Pinned -> Device)", bytes=30),
        event(2, "gpu_memcpy", "Memcpy DtoH (Device -> Pinned)", bytes=7),
        event(2, "cuda_runtime", "cudaStreamSynchronize"),
        event(2, "cuda_sync", "Stream Sync", stream=7),
        event(2, "cuda_sync", "Stream Wait Event", stream=20),
        event(2, "kernel", "crop"),
        {"ph": "M", "name": "process_name"},
        event(3, "cuda_runtime", "cudaDeviceSynchronize"),
    ]
    found.add(events, base_ns=10**18, begin_ns=10**18 + 2 * 10**9, end_ns=10**18 + 3 * 10**9)
    assert found.copies == {"HtoD": 1, "DtoH": 1}
    assert found.bytes == {"HtoD": 30, "DtoH": 7}
    assert found.waits == {("Stream Sync", 7): 1}
    assert found.device_wide == 0


def test_a_wait_that_is_traced_as_a_call_and_as_a_wait_counts_once():
    found = CudaTrace()
    events = [
        event(0, "cuda_runtime", "cudaDeviceSynchronize"),
        event(0, "cuda_sync", "Context Sync", stream=-1),
    ]
    found.add(events, base_ns=0, begin_ns=0, end_ns=1)
    assert found.device_wide == 1
