"""The work on packets, one operator per file: the operator `pose` is the class `Pose` in `operators/pose.py`.

`REGISTRY` has the names that a graph may use as `op:`. Classes are imported when a graph first uses them.
Other packages register operators by an entry point in the group `posestream.operators`.

Folders hold what operators share. All of it may import `engines` and `pipeline`, but not `tools`.
"""

from __future__ import annotations

from importlib.metadata import entry_points

REGISTRY: dict[str, str] = {
    "decode": "operators.decode:Decode",
    "kafka_source": "operators.kafka_source:KafkaSource",
    "detect": "operators.detect:Detect",
    "track": "operators.track:Track",
    "pose": "operators.pose:Pose",
    "pose_onestage": "operators.pose_onestage:PoseOnestage",
    "fuse": "operators.fuse:Fuse",
    "smooth": "operators.smooth:Smooth",
    "sync": "operators.sync:Sync",
    "jsonl_sink": "operators.jsonl_sink:JsonlSink",
    "coco_sink": "operators.coco_sink:CocoSink",
    "parquet_sink": "operators.parquet_sink:ParquetSink",
    "video_sink": "operators.video_sink:VideoSink",
    "kafka_sink": "operators.kafka_sink:KafkaSink",
}
REGISTRY |= {point.name: point.value for point in entry_points(group="posestream.operators")}
