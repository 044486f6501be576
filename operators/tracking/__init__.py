"""What follows instances over time: motion models, assignment of detections to tracks, the One-Euro filter.

Used by `track`, `smooth` and the estimators that follow poses. Imports `pipeline.packet` only.
"""
