"""What `kafka_sink`, `kafka_source` and the commands share: connections, producers, members, ledgers."""
