"""How it is run: Kafka on one machine, and a worker beside it."""
