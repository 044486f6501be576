"""Rows from processes of their own; the rows before an error, a crash or a hang are kept."""

import isolation_toys
import pytest
from measuring.isolation import run_isolated

pytestmark = pytest.mark.slow

BOTH = [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize(
    ("then", "reason"),
    [("return", ""), ("raise", "ValueError: no more"), ("crash", "crashed with exit code 7")],
)
def test_the_rows_until_it_ends_are_kept(then, reason):
    assert run_isolated(isolation_toys.two_rows_then, then, within_s=60) == (BOTH, reason)


def test_a_process_that_hangs_is_killed():
    assert run_isolated(isolation_toys.two_rows_then, "hang", within_s=8) == (BOTH, "not done in 8 s")


def test_without_time_nothing_is_started():
    assert run_isolated(isolation_toys.two_rows_then, "return", within_s=1) == (
        [],
        "left out: the time is up",
    )
