"""A function that yields two rows and then returns, raises, crashes or hangs."""

import os
import time


def two_rows_then(then):
    yield {"n": 1}
    yield {"n": 2}
    if then == "raise":
        raise ValueError("no\nmore")
    if then == "crash":
        os._exit(7)
    if then == "hang":
        time.sleep(1000)


def cannot_run():
    yield {"not run": "no GPU here"}
