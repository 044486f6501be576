"""Read results back as arrays, from files and from Kafka topics. Imports `records` and `kafka`."""
