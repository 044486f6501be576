"""The contract of a model: the one description of the numbers it was trained with.

A checkpoint means nothing without them, so they travel with it: `configs/models/NAME.yaml` holds one
contract, and nothing else in the project may say how large a model's input is or how its output is read.
"""

from __future__ import annotations

import functools
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from engines.contracts.config_files import available, read_config, read_names
from engines.contracts.shapes import contradiction

SHA256_DIGITS = 64


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileSource(_Strict):
    """A file by its URL (`https://…`) or its path on this machine."""

    kind: Literal["file"] = "file"
    url: str


class ArchiveSource(_Strict):
    """A member of a zip or tar archive; a member name without folders matches in any folder."""

    kind: Literal["archive"] = "archive"
    url: str
    member: str


class WheelSource(_Strict):
    """A file inside a wheel on the Python package index, as the installed pip is configured to reach it."""

    kind: Literal["wheel"] = "wheel"
    requirement: str = Field(description="with an exact version: mediapipe==0.10.21")
    member: str
    platform: str | None = Field(None, description="pip's --platform, where wheels differ by platform")
    python_version: str | None = Field(None, description="pip's --python-version, likewise")


Source = Annotated[FileSource | ArchiveSource | WheelSource, Field(discriminator="kind")]


class Asset(_Strict):
    """A file that is fetched once, verified and kept: weights or a sample clip."""

    filename: str = Field(description="its name in the cache and on a mirror")
    sha256: str | None = Field(
        pattern=r"^([0-9a-f]{64}|[0-9a-f]{8})$",
        description="all of it; its first eight digits where the publisher states no more; or null where it "
        "states none, and then the file is never fetched, only imported",
    )
    sha256_from: Literal["official", "copy"] = Field(
        "official",
        description="copy: pinned to a copy at hand, since no official source states the checksum",
    )
    bytes: int | None = Field(None, gt=0, description="where it is known")
    sources: list[Source] = Field(min_length=1, description="tried in this order, after the mirror")

    @property
    def in_full(self) -> bool:
        """Whether the whole checksum is known."""
        return self.sha256 is not None and len(self.sha256) == SHA256_DIGITS

    def has_checksum(self, sha256: str) -> bool:
        """Whether a file of this SHA-256 is the asset, as far as the checksum is known."""
        return self.sha256 is not None and sha256.startswith(self.sha256)


class Input(_Strict):
    """How an image becomes the model's input: (x - mean) / std per channel, after padding and resizing."""

    name: str
    size: tuple[int, int] = Field(description="width, height in px")
    layout: Literal["nhwc", "nchw"]
    colour: Literal["rgb", "bgr"]
    mean: tuple[float, float, float] = Field(description="in units of 0..255, in the order of `colour`")
    std: tuple[float, float, float]
    placement: Literal["centre", "centre_px", "top_left"] = Field(
        description="where a letterboxed image lies; centre_px: its edges on whole px, as by ultralytics"
    )
    pad_value: float | Literal["edge"] = Field(
        description="what lies around it: 0..255, or the edge repeated"
    )
    box_padding: float = Field(
        1.0, gt=0, description="of a top-down model: the region's size over that of the box, after its aspect"
    )

    def scale_and_bias(self) -> tuple[np.ndarray, np.ndarray]:
        """(3,) float32 each, in the order of `colour`: normalised = pixel * scale + bias."""
        scale = np.float32(1) / np.array(self.std, np.float32)
        return scale, -np.array(self.mean, np.float32) * scale


class Output(_Strict):
    """One output tensor; sizes in `shape` that vary from run to run are -1."""

    name: str
    shape: tuple[int, ...]


class BlazePoseDetectorCodec(_Strict):
    """SSD boxes and alignment points of the BlazePose detector."""

    kind: Literal["blazepose-detector"]
    strides: list[int]
    anchors_per_cell: list[int] = Field(description="one number for each entry of strides")
    points: int = Field(description="alignment points behind the box: hip centre, then the body's circle, …")
    roi_scale: float


class BlazePoseLandmarksCodec(_Strict):
    """Landmarks in crop pixels, refined on heatmaps, with auxiliary points for the next crop."""

    kind: Literal["blazepose-landmarks"]
    landmarks: int = Field(description="rows of the landmark output, auxiliary and unused ones included")
    auxiliary: tuple[int, int] = Field(description="rows of hip centre and of the body's circle")
    refine_kernel: int = Field(description="side of the heatmap window, in cells")
    min_refine_score: float
    min_presence: float
    roi_scale: float


class YoloxCodec(_Strict):
    """Anchor-free grid: xy + cell, exp(wh), objectness times class score; no NMS in the graph."""

    kind: Literal["yolox"]
    strides: list[int]


class RtmdetCodec(_Strict):
    """Boxes and labels after an NMS that is part of the graph."""

    kind: Literal["rtmdet"]


class YoloCodec(_Strict):
    """Ultralytics' detectors, decoded in the graph, without NMS: 4 box values, then a score a class."""

    kind: Literal["yolo"]


class YoloPoseCodec(_Strict):
    """Ultralytics' one-stage pose models: box, score, then x, y (and visibility) a keypoint; no NMS."""

    kind: Literal["yolo-pose"]
    values_per_keypoint: Literal[2, 3] = 3


class SimccCodec(_Strict):
    """A classification along x and along y for each keypoint (SimCC, arXiv:2107.03332)."""

    kind: Literal["simcc"]
    split_ratio: float = Field(gt=0, description="bins a px of the input")


class HeatmapCodec(_Strict):
    """A heatmap a keypoint; its peak, refined below a cell."""

    kind: Literal["heatmap"]
    size: tuple[int, int] = Field(description="width, height in cells")
    sigma: float = Field(gt=0, description="of the Gaussians it was trained with, in cells")
    refine: Literal["none", "quarter", "dark"] = Field(
        description="quarter: towards the higher neighbour; dark: by the log's curvature (arXiv:1910.06278)"
    )
    udp: bool = Field(
        description="whether corners of px grids coincide, in crop and map (UDP, arXiv:1911.07524)"
    )


Codec = Annotated[
    BlazePoseDetectorCodec
    | BlazePoseLandmarksCodec
    | YoloxCodec
    | RtmdetCodec
    | YoloCodec
    | YoloPoseCodec
    | SimccCodec
    | HeatmapCodec,
    Field(discriminator="kind"),
]


class Tolerance(_Strict):
    """How far an exported or compiled engine may be from the FP32 reference, for it to be used."""

    keypoint_px: float = Field(
        default=0.5, gt=0, description="95th percentile of keypoint shifts, px of the input"
    )
    box_px: float = Field(
        default=1.0, gt=0, description="95th percentile of box corner shifts, px of the input"
    )
    score: float = Field(default=0.02, gt=0, description="95th percentile of score changes")


class Contract(_Strict):
    """One model: what it does, how it is fed, how it is read, where it comes from."""

    name: str
    title: str
    task: Literal["detect", "pose", "pose_onestage"]
    architecture: str = Field(description="of a checkpoint: a family in engines/architectures")
    variant: str | None = Field(None, description="its size, as the family names it: m, w32, 0.3b")
    input: Input
    outputs: dict[str, Output] = Field(description="role (as the codec calls it) to tensor")
    codec: Codec
    labels: list[str] | None = Field(
        None, description="class names by index, of a detector; or the name of a list in configs/labels"
    )
    skeleton: str | None = Field(None, description="of a pose model: a file in configs/skeletons")
    keypoints_3d: bool = Field(False, description="whether a pose model also gives points in metres")
    tolerance: Tolerance = Tolerance()
    licence: str
    homepage: str
    asset: Asset

    @field_validator("labels", mode="before")
    @classmethod
    def _names(cls, labels: object) -> object:
        return read_names("labels", labels) if isinstance(labels, str) else labels

    @model_validator(mode="after")
    def _agrees(self) -> Contract:
        if found := contradiction(self):
            raise ValueError(found)
        return self


def available_models() -> list[str]:
    """The names of all models that have a contract, one's own included, sorted."""
    return available("models")


@functools.cache
def load_contract(name: str) -> Contract:
    """The contract `configs/models/NAME.yaml`, or one's own, `HOME/models/NAME.yaml`.

    Raises:
        ContractError: no such model (with the nearest name), or an invalid contract (with field and reason).
    """
    return read_config(Contract, "models", name)
