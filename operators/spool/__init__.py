"""A queue of messages on disk that survives its process. Knows no Kafka and no packets; imports no room."""
