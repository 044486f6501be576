"""Cut a fragment out of a graph, and create the Kafka topics between fragments. Imports `kafka`."""
