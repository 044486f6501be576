"""Runs in a peer's environment: shared by its programs, which load, wait for each other, work, and report."""

import json
import time

import cv2


def measure(work):
    """Do `work`, which returns its numbers of frames and persons, when all programs are ready; print figures.

    time.monotonic_ns() is the same clock in all processes of a machine.
    """
    print("ready", flush=True)
    input()
    start, cpu = time.monotonic_ns(), time.process_time()
    frames, persons = work()
    end, cpu = time.monotonic_ns(), time.process_time() - cpu
    figures = {"start_ns": start, "end_ns": end, "cpu_s": cpu, "frames": frames, "persons": persons}
    print(json.dumps(figures), flush=True)


def frames_of(clip, loops):
    """The frames (H, W, 3) BGR of a clip that is played `loops` times."""
    for _ in range(loops):
        capture = cv2.VideoCapture(clip)
        while True:
            good, frame = capture.read()
            if not good:
                break
            yield frame
