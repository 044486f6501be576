"""A function that yields two rows and then returns, raises, crashes or hangs."""

import os
import time


def two_rows_then(what):
    yield {"n": 1}
    yield {"n": 2}
    if what == "raise":
        raise ValueError("no\nmore")
    if what == "crash":
        os._exit(7)
    if what == "hang":
        time.sleep(1000)
