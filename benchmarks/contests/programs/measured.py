"""Runs in a peer's environment: what its programs share. They load, wait for each other, work, and tell."""

import json
import time

import cv2


def measure(work):
    """Do `work`, which returns its frames and persons, when all are ready; print what was done, and when.

    time.monotonic_ns() has one clock for all processes of a machine.
    """
    print("ready", flush=True)
    input()
    start, cpu = time.monotonic_ns(), time.process_time()
    frames, persons = work()
    end, cpu = time.monotonic_ns(), time.process_time() - cpu
    told = {"start_ns": start, "end_ns": end, "cpu_s": cpu, "frames": frames, "persons": persons}
    print(json.dumps(told), flush=True)


def frames_of(clip, loops):
    """The frames (H, W, 3) BGR of a clip that is played so many times."""
    for _ in range(loops):
        capture = cv2.VideoCapture(clip)
        while True:
            good, frame = capture.read()
            if not good:
                break
            yield frame
