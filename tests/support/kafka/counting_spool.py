"""A spool for tests, and a look at its files."""

import os
from collections import Counter
from pathlib import Path

from operators.spool.spool import Spool

MB = 1 << 20


class CountingSpool(Spool):
    """A spool with its counts; `kill` leaves it as a killed process would."""

    def __init__(self, root, cap=MB, **options):
        self.counts = Counter()
        super().__init__(Path(root), cap, count=lambda name, n: self.counts.update({name: n}), **options)

    def kill(self):
        os.close(self._disk._held)  # as the system does: the lock is released, the files stay as they are

    def rest(self):
        found = []
        while chunk := self.read(1000):
            found += chunk
        return [message for _, message in found]


def segments(root):
    return sorted(root.glob("*/*.spool"))


def on_disk(root, message):
    return any(message in path.read_bytes() for path in segments(root))
