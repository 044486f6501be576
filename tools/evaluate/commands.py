"""`posestream evaluate`: average precision and recall of poses on annotated images."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from engines.errors import EngineError
from engines.evaluation.average_precision import evaluate
from engines.evaluation.coco_files import Annotations, read_annotations, read_json, results_of
from operators.decoding import media_files
from operators.graphs.graph_files import load_graph
from operators.graphs.weights import check_weights
from tools.evaluate import annotated_images

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Measure poses against annotations: AP and AR by OKS, the same numbers as pycocotools.",
)

AnnotationsFile = Annotated[Path, typer.Argument(help="COCO keypoint annotations, a .json file.")]
SkeletonName = Annotated[
    str | None,
    typer.Option(help="The skeleton of the annotations; by default found by the names of their keypoints."),
]
AnyCategory = Annotated[
    bool,
    typer.Option(
        "--any-category", help="Ignore the category: a jaguar that is found as a dog counts as found."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

SIZES = {"": "all", "50": "all, at OKS 0.50", "75": "all, at OKS 0.75", "M": "32² to 96² px", "L": "larger"}


@app.command()
def coco(
    annotations: AnnotationsFile,
    images: Annotated[Path, typer.Argument(help="The folder of the annotated images.")],
    model: Annotated[str | None, typer.Option(help="A pose model; it gets the annotated boxes.")] = None,
    graph: Annotated[str | None, typer.Option(help="A graph; it gets the images without boxes.")] = None,
    detections: Annotated[
        Path | None,
        typer.Option(help="With --model: take the boxes from this file, COCO results of a detector."),
    ] = None,
    skeleton: SkeletonName = None,
    any_category: AnyCategory = False,
    as_json: AsJson = False,
) -> None:
    """Find poses in annotated images, and measure them.

    Each image is processed alone, without tracking. The score of a pose is the score of its box times the
    mean of its keypoint scores above 0.2, as in MMPose.

    Examples:
    `posestream evaluate coco person_keypoints_val2017.json val2017 --model rtmpose-m-body8`

    `posestream evaluate coco person_keypoints_val2017.json val2017 --graph human`

    `posestream evaluate coco test_ap10k.json images --graph animals --any-category`
    """  # fmt: skip
    if (model is None) == (graph is None) or (detections and graph):
        raise typer.BadParameter("give either --model, with --detections if you have any, or --graph")
    known = read_annotations(annotations, skeleton)
    paths = annotated_images.image_paths(known, images)
    if model:
        boxes = (
            annotated_images.detected_boxes(detections, known)
            if detections
            else annotated_images.annotated_boxes(known)
        )
        found = annotated_images.by_model(model, known, paths, boxes, _with_progress)
    else:
        checked = load_graph(str(graph))
        check_weights(checked)
        found = annotated_images.by_graph(checked, known, paths, _with_progress)
    entries = list(annotated_images.entries(found, known))
    by_name = {name: category for category, name in known.categories.items()}
    for entry in entries:
        entry["category_id"] = by_name.get(entry["label"], 0)
    _print_figures(model or str(graph), known, entries, any_category=any_category, as_json=as_json)


@app.command()
def results(
    found: Annotated[Path, typer.Argument(metavar="RESULTS", help="COCO keypoint results, a .json file.")],
    annotations: AnnotationsFile,
    images: Annotated[
        Path | None,
        typer.Option(
            help="The folder of images that was run as one source: image_id is then an image's number in it."
        ),
    ] = None,
    skeleton: SkeletonName = None,
    any_category: AnyCategory = False,
    as_json: AsJson = False,
) -> None:
    """Measure a COCO results file, for instance one of `posestream run --coco`.

    Examples:
    `posestream evaluate results person_keypoints_val2017_results.json person_keypoints_val2017.json`

    `posestream run val2017 --coco` and then
    `posestream evaluate results out/val2017.coco.json person_keypoints_val2017.json --images val2017`
    """  # fmt: skip
    known, entries = read_annotations(annotations, skeleton), read_json(found)
    if not isinstance(entries, list):
        raise EngineError(f"{found}: expected a list of COCO results, found {type(entries).__name__}")
    if images:
        entries = _numbered(entries, known, images)
    _print_figures(str(found), known, entries, any_category=any_category, as_json=as_json)


def _numbered(entries: list[dict[str, Any]], known: Annotations, folder: Path) -> list[dict[str, Any]]:
    """The entries with image ids instead of image numbers, without images that are not annotated."""
    ids = {name: image for image, name in known.images.items()}
    in_order = [ids.get(path.name) for path in media_files.image_paths(str(folder)) or ()]
    last = max((entry["image_id"] for entry in entries), default=0)
    if last >= len(in_order):
        raise EngineError(
            f"{folder} has {len(in_order)} images, but the results have an image number {last} (from 0)"
        )
    numbered = [{**entry, "image_id": in_order[entry["image_id"]]} for entry in entries]
    return [entry for entry in numbered if entry["image_id"] is not None]


def _print_figures(
    evaluated: str, known: Annotations, entries: list[dict[str, Any]], *, any_category: bool, as_json: bool
) -> None:
    left_out: Counter[str] = Counter()
    if not any_category:
        wanted = set(known.category_ids.tolist())
        others = [entry for entry in entries if entry.get("category_id") not in wanted]
        left_out.update(str(entry.get("label", entry.get("category_id"))) for entry in others)
    measured = evaluate(known, results_of(entries, known, evaluated), any_category=any_category)
    counts = {
        "images": len(known.images),
        "annotated": int((~known.ignored).sum()),
        "found": len(entries) - left_out.total(),
        "of other categories": dict(left_out),
    }
    if as_json:
        figures = {name: None if math.isnan(value) else value for name, value in measured.items()}
        typer.echo(
            json.dumps(
                {"evaluated": evaluated, "skeleton": known.skeleton.name, **counts, **figures}, indent=2
            )
        )
        return
    table = Table(
        "instances", "AP", "AR", title=evaluated, title_justify="left", box=box.SIMPLE, pad_edge=False
    )
    for size, meaning in SIZES.items():
        table.add_row(meaning, *(_written(measured[f"{name}{size}"]) for name in ("AP", "AR")))
    Console().print(table)
    typer.echo(
        f"{counts['found']} poses found, {counts['annotated']} annotated in {counts['images']} images, "
        f"skeleton {known.skeleton.name}" + (", of any category" if any_category else "")
    )
    if left_out:
        most = ", ".join(f"{n} {label}" for label, n in left_out.most_common(5))
        typer.echo(f"left out, because their category is not annotated: {most} (--any-category keeps them)")


def _written(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _with_progress(items: Iterable[Any]) -> Iterable[Any]:
    console = Console(stderr=True)
    listed = list(items)
    return track(listed, "images", console=console, transient=True, disable=not console.is_terminal)
