"""posestream for Python users: tracked 2D and 3D keypoints from cameras and video files.

    import posestream

    posestream.run("human-lite", "walk.mp4", out="results")
    poses = posestream.read("results/walk.jsonl")
    poses.keypoints  # (R, 33, 2), px

Everything here lives elsewhere and is only re-exported.
"""

# ruff: noqa: E402  (the check comes before the imports that it protects)

from posestream_entry import check_packages

check_packages()

from engines.errors import AssetError, ContractError, EngineError
from operators.graphs.graph_files import load_graph
from operators.graphs.graph_run import run
from operators.reading.read import Recording, read, read_folder
from pipeline.errors import ConfigError, PipelineError, PosestreamError, RunError, SinkError, SourceError
from pipeline.graph import Graph
from pipeline.measurement.run_stats import RunStats
from pipeline.operator import Operator, Source
from pipeline.packet import End, Instances, Packet
from pipeline.run import Run

__all__ = [
    "AssetError",
    "ConfigError",
    "ContractError",
    "End",
    "EngineError",
    "Graph",
    "Instances",
    "Operator",
    "Packet",
    "PipelineError",
    "PosestreamError",
    "Recording",
    "Run",
    "RunError",
    "RunStats",
    "SinkError",
    "Source",
    "SourceError",
    "load_graph",
    "read",
    "read_folder",
    "run",
]
