"""Cut fragments out of a graph, and create the Kafka topics between them. Imports `graphs` and `kafka`."""
