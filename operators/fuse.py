"""Estimate each pose several times, by several models or on augmented crops, and fuse the results."""

from __future__ import annotations

from itertools import chain
from typing import Annotated, Any

from pydantic import Field

from engines.codecs.base import TopDownCodec
from engines.estimators.ensemble import Augmentation, Ensemble
from engines.estimators.topdown import TopDown
from engines.loading.load import load_engine
from operators.estimation.model_options import Device, RunsOn, Threads, contract_for, count_halved, model_for
from operators.estimation.top_down_poses import TopDownPoses
from pipeline.errors import OptionError
from pipeline.operator import Operator, Ports, RunInfo
from pipeline.packet import Packet

CROPS_MAX = 8  # of one instance for one model
OPTIONS = ("flip", "rotations", "scales")

Models = Annotated[list[str], Field(min_length=1, description="top-down pose models of one skeleton")]
Flip = Annotated[bool, Field(description="use the mirrored crop too")]
Angle = Annotated[float, Field(gt=0, le=90)]
Rotations = Annotated[
    tuple[Angle, ...], Field(description="degrees; use crops turned by each angle, to both sides")
]
Scale = Annotated[float, Field(ge=0.5, le=2)]
Scales = Annotated[tuple[Scale, ...], Field(description="use crops of this many times the size")]
Deviation = Annotated[
    float,
    Field(gt=0, description="outliers lie further from the rest, in COCO's standard deviations"),
]
MaxInstances = Annotated[int | None, Field(ge=1, description="per frame: the best by box score")]


class Fuse(Operator):
    """Run several pose models, or one on augmented crops, on every instance, and fuse their poses.

    needs     image   uint8   (H, W, 3) RGB
              boxes   float32 (N, 4)  x0, y0, x1, y1 in px of the frame
              scores  float32 (N,)    only with `max_instances`
    provides  keypoints        float32 (N, K, 2)  px of the frame; NaN where no model found one
              keypoint_scores  float32 (N, K)     mean of the models' scores; outliers count as 0

    Each model takes the plain crop and the augmented ones, at most 8 in all. A keypoint is the mean of all
    results weighted by score, without outliers (see `engines.estimators.ensemble.fuse`).
    """

    needs = ("image", "boxes")
    provides = ("keypoints", "keypoint_scores")
    batch_max = 4

    def __init__(
        self,
        models: Models,
        flip: Flip = False,
        rotations: Rotations = (),
        scales: Scales = (),
        max_deviation: Deviation = 1.0,
        max_instances: MaxInstances = None,
        backend: RunsOn = "auto",
        threads: Threads = None,
        device: Device = None,
    ):
        self.models, self.max_deviation = models, max_deviation
        self.augmentations = augmentations(flip, rotations, scales)
        self.max_instances = max_instances
        self.backend, self.threads, self.device = backend, threads, device

    @classmethod
    def ports(cls, options: dict[str, Any]) -> Ports:
        """Check that the models fit each other.

        Raises:
            OptionError: a model is unknown or not top-down, skeletons differ, there is nothing to fuse, or
                there are more than 8 crops of each instance.
        """
        skeletons: dict[str | None, str] = {}
        for model in options["models"]:
            contract = contract_for("pose", model, option="models")
            if not isinstance(contract.codec, TopDownCodec):
                raise OptionError(
                    "models", f"{model} follows tracks by its own poses; expected top-down models"
                )
            skeletons[contract.skeleton] = model
        if len(skeletons) > 1:
            found = ", ".join(f"{model} gives {skeleton}" for skeleton, model in skeletons.items())
            raise OptionError("models", f"{found}; expected models of one skeleton")
        count = len(augmentations(**{name: options[name] for name in OPTIONS if name in options}))
        if count > CROPS_MAX:
            raise OptionError(
                "rotations", f"{count} crops of every instance, at most {CROPS_MAX}; name fewer"
            )
        if count * len(options["models"]) == 1:
            raise OptionError("models", "one pose needs no fusing; name several, set flip, or use op: pose")
        needs = {*cls.needs, "scores"} if options.get("max_instances") else {*cls.needs}
        return Ports(frozenset(needs), frozenset(cls.provides))

    def open(self, run: RunInfo) -> None:
        """Load the models."""
        threads = self.threads or run.cores
        found = [model_for("pose", model, option="models") for model in self.models]
        models = [
            TopDown(
                contract,
                load_engine(contract, threads=threads, path=path, backend=self.backend, device=self.device),
            )
            for contract, path in found
        ]
        self.poses = TopDownPoses(
            Ensemble(models, self.augmentations, self.max_deviation), self.max_instances
        )

    def process(self, packets: list[Packet]) -> list[Packet]:
        """Find the poses of a batch."""
        results = self.poses.process(packets)
        count_halved(self, self.poses.estimator.halved)
        return results

    def close(self) -> None:
        """Free the models' memory."""
        if poses := self.__dict__.pop("poses", None):
            poses.close()


def augmentations(
    flip: bool = False, rotations: tuple[float, ...] = (), scales: tuple[float, ...] = ()
) -> list[Augmentation]:
    """The plain crop, then one crop for each augmentation."""
    angles = chain.from_iterable((angle, -angle) for angle in rotations)
    return [
        Augmentation(),
        *([Augmentation(mirrored=True)] if flip else []),
        *(Augmentation(degrees=angle) for angle in angles),
        *(Augmentation(scale=scale) for scale in scales),
    ]
