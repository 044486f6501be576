"""Rows from processes of their own; what came before something went wrong is kept."""

import isolation_toys
import pytest
from isolation import aside

BOTH = [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize(
    ("what", "why"),
    [("nothing", ""), ("raise", "ValueError: no more"), ("crash", "crashed with exit code 7")],
)
def test_rows_until_it_ends(what, why):
    assert aside(isolation_toys.two_then, what, within_s=60) == (BOTH, why)


def test_what_hangs_is_ended():
    assert aside(isolation_toys.two_then, "hang", within_s=20) == (BOTH, "not done in 20 s")


def test_nothing_is_begun_without_time():
    assert aside(isolation_toys.two_then, "nothing", within_s=1) == ([], "left out: the time is up")
