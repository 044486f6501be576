"""Kafka: connect, publish from a spool, read as a member of a group. Imports `records` and `spool`."""
