"""`posestream engine quantise`: convert a model to INT8, calibrated on typical pictures and videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from engines.assets.model_files import find_model, runnable
from engines.codecs.base import DetectorCodec, TopDownCodec
from engines.codecs.registry import kinds_of
from engines.contracts.contract import Contract, load_contract
from engines.contracts.skeletons import load_skeleton
from engines.conversion.int8 import pays_here, quantise
from engines.device.image import Image
from engines.errors import ContractError
from engines.estimators.detector import Detector, letterboxed
from engines.estimators.topdown import crop_boxes
from engines.loading.load import load_engine
from operators.decoding.file_source import FileSource
from operators.decoding.media_files import first_frame_size, read_header
from operators.decoding.options import DecodeOptions
from operators.estimation.model_options import as_image
from tools.exit_codes import DONE, FAILED

MB = 1e6
PERSON = "person"
DETECTORS = {True: "rtmdet-nano", False: "yolox-nano"}  # for persons, for everything else


def quantise_model(
    model: Annotated[str, typer.Argument(help="A model, or an .onnx file that carries its contract.")],
    calibration: Annotated[
        list[str],
        typer.Option(
            "--calibration",
            "-c",
            metavar="PATH",
            help="A folder of images, an image or a video; may be repeated.",
        ),
    ],
    images: Annotated[
        int, typer.Option(min=1, help="How many images to use, taken evenly from all of these.")
    ] = 200,
    detector: Annotated[
        str | None,
        typer.Option(
            help="The detector for a pose model; rtmdet-nano by default for persons, else yolox-nano."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write to this file, not to the cache.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Quantise again even if the file is there already.")
    ] = False,
) -> None:
    """Quantise a model to INT8, and compare it with FP32 on images that were not used for calibration.

    INT8 is faster with TensorRT, and on processors with VNNI (AVX512-VNNI, AVX-VNNI); on others it is slower
    than FP32. Nothing uses the file unless you give its path as the model. Exit code 1: the result is beyond
    the model's tolerance.

    Examples:
    `posestream engine quantise yolox-tiny --calibration stable.mp4`

    `posestream run yard.mp4 --set detect.model=FILE.onnx` and
    `posestream engine build FILE.onnx --precision int8`, with the file whose path it prints
    """  # fmt: skip
    contract, path = find_model(model)
    source = path or runnable(contract)
    inputs = _inputs(contract, _pictures(calibration, images), detector)
    result = quantise(contract, source, inputs, out=out, force=force)
    if not result.fresh:
        typer.echo(f"{contract.name}: already quantised (--force does it again)")
    before, after = source.stat().st_size / MB, result.path.stat().st_size / MB
    typer.echo(
        f"{contract.name}: calibrated on {result.calibrated_on} inputs; {before:.1f} MB to {after:.1f} MB"
    )
    typer.echo("\n".join(result.comparison.lines()))
    if pays_here() is False:
        typer.echo("warning: this processor has no VNNI, so INT8 is slower than FP32 here", err=True)
    typer.echo(str(result.path))
    raise typer.Exit(DONE if result.comparison.passed else FAILED)


def _pictures(sources: Sequence[str], count: int) -> Iterator[Image]:
    """About `count` pictures, the same number from each source, evenly over its length."""
    share = max(1, count // len(sources))
    for source in sources:
        first_frame_size(source)  # raises now, not after minutes
    lengths = {source: read_header(source).frames or share for source in sources}
    return (
        as_image(packet)
        for source, frames in lengths.items()
        for packet in FileSource(DecodeOptions(stride=max(1, frames // share), max_frames=share)).read(
            source, source
        )
    )


def _inputs(contract: Contract, pictures: Iterator[Image], detector: str | None) -> Iterator[np.ndarray]:
    """(1, …) each: whole frames for a detector, instances for a pose model."""
    codec = contract.codec
    if isinstance(codec, DetectorCodec):
        yield from (np.asarray(letterboxed([picture], contract)[0]) for picture in pictures)
        return
    if not isinstance(codec, TopDownCodec):
        raise ContractError(
            f"{contract.name}: codec {codec.kind!r} is not quantised, only "
            f"{kinds_of(DetectorCodec, TopDownCodec)}"
        )
    persons = contract.skeleton is not None and "left_wrist" in load_skeleton(contract.skeleton).keypoints
    found_by = load_contract(detector or DETECTORS[persons])
    find = Detector(found_by, load_engine(found_by))
    labels = np.array([label == PERSON for label in found_by.labels or ()])
    for picture in pictures:
        found = find([picture])[0]
        for box in found.boxes[labels[found.classes] == persons]:
            yield crop_boxes([picture], np.zeros(1, np.int64), box[None], contract)
    find.close()
