"""Model weights and sample clips for tests, from the user's own cache; skipped with the reason without."""

import functools

import pytest

from engines.assets import fetch
from engines.clips import load_clip
from engines.contract import load_contract
from engines.errors import AssetError


@functools.cache  # a source that cannot be reached is asked only once
def path_or_reason(load, name):
    try:
        return fetch(load(name).asset)
    except AssetError as error:
        return str(error)


def fetched(load, name):
    found = path_or_reason(load, name)
    if isinstance(found, str):
        pytest.skip(found)
    return found


@pytest.fixture(scope="session")
def weights():
    """A function from a model's name to the path of its weights."""
    return functools.partial(fetched, load_contract)


@pytest.fixture(scope="session")
def clip():
    """A function from a sample clip's name to its path."""
    return functools.partial(fetched, load_clip)
