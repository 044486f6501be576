"""Formats of results: JSON records, Kafka messages, Parquet columns (`docs/schema.md`). Imports no room."""
