"""The work on packets, one operator a file: the operator `pose` is the class `Pose` in `operators/pose.py`.

`REGISTRY` is what a graph's `op:` may name; classes are imported when a graph first uses them. Packages of
others add theirs by an entry point in the group `posestream.operators`.
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
