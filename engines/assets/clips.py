"""Sample clips: short videos under a free licence, fetched like weights; described in `configs/clips/`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from engines.contracts.config_files import available, read_config
from engines.contracts.contract import Asset


class Clip(BaseModel):
    """A sample video, with the licence under which it may be shown."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    title: str
    licence: str
    homepage: str
    asset: Asset


def available_clips() -> list[str]:
    """The names of all sample clips, sorted."""
    return available("clips")


def load_clip(name: str) -> Clip:
    """The clip `configs/clips/NAME.yaml`; its file is fetched with `engines.assets.store.fetch(clip.asset)`.

    Raises:
        ContractError: no such clip (with the nearest name), or an invalid file (with field and reason).
    """
    return read_config(Clip, "clips", name)
