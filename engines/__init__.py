"""Runs models: contracts, assets, codecs and backends. Knows nothing of streams or of Kafka."""
