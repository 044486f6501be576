"""How an image becomes a model's input: the section `input:` of a contract."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field


class Input(BaseModel):
    """How an image becomes the model's input: padded, resized, then (x - mean) / std per channel."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    size: tuple[int, int] = Field(description="width, height in px")
    layout: Literal["nhwc", "nchw"]
    colour: Literal["rgb", "bgr"]
    mean: tuple[float, float, float] = Field(description="in units of 0..255, in the order of `colour`")
    std: tuple[float, float, float]
    placement: Literal["centre", "centre_px", "top_left"] = Field(
        description="where a letterboxed image lies; centre_px: with edges on whole px, as ultralytics does"
    )
    pad_value: float | Literal["edge"] = Field(
        description="the value around it: 0..255, or the edge repeated"
    )
    box_padding: float = Field(
        1.0,
        gt=0,
        description="of a top-down model: how many times as large as its box a region is, before the short "
        "side is stretched to the input's aspect",
    )

    def scale_and_bias(self) -> tuple[np.ndarray, np.ndarray]:
        """(3,) float32 each, in the order of `colour`: normalised = pixel * scale + bias."""
        scale = np.float32(1) / np.array(self.std, np.float32)
        return scale, -np.array(self.mean, np.float32) * scale
