"""The base classes of codecs. A codec says how the outputs of one model family are read.

A codec is the section `codec:` of a contract (a pydantic model with the family's numbers) together with the
code that reads the outputs by those numbers. `docs/model-families.md` shows how to add a family.

Reading has two steps, since outputs may lie on a GPU. `reduce` runs where the outputs are and returns small
arrays; for tensors, their shapes are fixed and the host never waits for a value. `finish` runs on the host,
on the downloaded arrays.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict

from engines.codecs import detections
from engines.codecs.detections import Detections, Reduced
from engines.device.arrays import Outputs

if TYPE_CHECKING:
    from engines.device.streams import Stream

Shape = tuple[int, ...]  # -1 is any size


class ModelSizes(NamedTuple):
    """The sizes in a contract that decide on the shapes of the model's outputs."""

    input_size: tuple[int, int]  # width, height in px
    labels: int  # classes of a detector; 0 without labels
    keypoints: int  # of the skeleton; 0 without one
    skeleton: str | None  # its name, for messages


class ExpectedOutput(NamedTuple):
    """The shape that an output must have."""

    shape: Shape
    reason: str  # what the shape follows from, a plural for messages: "17 keypoints of coco17"


class DetectionRequest(NamedTuple):
    """What a detector's outputs are read with."""

    model: ModelSizes
    min_score: float  # detections below this score are left out
    nms_iou: float  # of two boxes of one class that overlap by more than this, the better one stays
    stream: Stream | None = None  # the current CUDA stream of outputs that are tensors


class Codec(BaseModel):
    """How the outputs of one model family are read, with the numbers that this needs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str  # each family narrows this to its own name: Literal["simcc"]

    @classmethod
    def kind_name(cls) -> str:
        """The value of `kind` that selects this family."""
        (kind,) = get_args(cls.model_fields["kind"].annotation)
        return str(kind)

    @abstractmethod
    def expected_outputs(self, model: ModelSizes) -> dict[str, ExpectedOutput]:
        """The outputs that the family reads, by role, with the shapes that follow from the contract."""

    def contradiction(self, model: ModelSizes) -> str | None:
        """The first contradiction between the codec and the model's sizes, with both values; or None."""
        return None

    def with_graph_shapes(self, shapes: Mapping[str, Shape]) -> Self:
        """This codec with all numbers that can be read from a graph's outputs, given by role."""
        return self


class DetectorCodec(Codec):
    """The codec of a detector or one-stage pose model, which sees whole frames."""

    # The thresholds of the family's own project; they hold where the user sets none.
    default_min_score: ClassVar[float]
    default_nms_iou: ClassVar[float]
    # Whether detections have rotated regions (`Detections.rois`) for the pose model of the same family.
    gives_rois: ClassVar[bool] = False
    # Whether resizing in training aligned the centres of pixels (cv2.resize) or their indices (MediaPipe).
    # The wrong choice shifts a frame of 1920 px, resized to 416 px, by 1.8 px of the frame.
    aligns_pixel_centres: ClassVar[bool] = True

    @property
    def scores_keypoints(self) -> bool:
        """Whether detections have a score for each keypoint."""
        return False

    @abstractmethod
    def reduce(self, outputs: Outputs, request: DetectionRequest) -> Reduced:
        """The candidates of B images, in px of the model's input.

        Args:
            outputs: by role, arrays or tensors, with the roles and shapes of `expected_outputs`.
            request: thresholds, the model's sizes and the CUDA stream.
        """

    def finish(self, reduced: Mapping[str, np.ndarray], nms_iou: float) -> list[Detections]:
        """The detections of each image, best first, in px of the model's input.

        Args:
            reduced: the result of `reduce`, downloaded to the host.
            nms_iou: the value that `reduce` was given.
        """
        return detections.finish(reduced, nms_iou)


class TopDownCodec(Codec):
    """The codec of a top-down pose model, which sees one crop for each of N instances."""

    @property
    def aligns_corner_pixels(self) -> bool:
        """Whether a region's corners fall on the centres of the crop's corner px (UDP, arXiv:1911.07524).

        Without this, the far corner falls one px further.
        """
        return False

    @abstractmethod
    def reduce(self, outputs: Outputs) -> Reduced:
        """The peaks in the outputs for N crops.

        Args:
            outputs: by role, arrays or tensors, with the roles and shapes of `expected_outputs`.
        """

    @abstractmethod
    def finish(
        self, reduced: Mapping[str, np.ndarray], input_size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The keypoints (N, K, 2) float32 in px of the crop, and their scores (N, K) float32, not clipped.

        A keypoint is NaN where its score is not above 0: the model found none.

        Args:
            reduced: the result of `reduce`, downloaded to the host.
            input_size: width, height of the crop in px.
        """

    @abstractmethod
    def mirror_back(self, outputs: Outputs, mirror: np.ndarray) -> Outputs:
        """Outputs for mirrored crops, turned into outputs for the crops themselves.

        Args:
            outputs: as for `reduce`.
            mirror: (K,) the keypoint that each keypoint becomes in a mirror, as `Skeleton.mirror`.
        """
