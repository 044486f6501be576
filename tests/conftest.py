"""Model weights and the sample clip for tests, from the user's own cache; skipped with the reason without."""

import pytest

from engines.assets import fetch
from engines.contract import load_contract
from engines.errors import AssetError


@pytest.fixture(scope="session")
def weights():
    """A function from a model's name to the path of its weights."""
    failed = {}  # name to reason, so that a source that cannot be reached is asked only once

    def path_of(name):
        if name not in failed:
            try:
                return fetch(load_contract(name).asset)
            except AssetError as error:
                failed[name] = str(error)
        pytest.skip(failed[name])

    return path_of
