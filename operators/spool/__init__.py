"""The spool: a queue on disk that survives the process. Knows nothing of Kafka or of packets."""
