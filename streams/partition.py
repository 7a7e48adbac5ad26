"""Where a project lives: Kafka's own default partitioner, the one of the Java client."""

from functools import lru_cache

from aiokafka.partitioner import murmur2


@lru_cache(maxsize=4096)
def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key, 0 <= p < partitions.

    Source: org.apache.kafka.clients.producer.internals.BuiltInPartitioner (murmur2, seed 0x9747b28c).

    >>> partition_of(b"project-1", 8)
    6
    """
    return int(murmur2(key) & 0x7FFFFFFF) % partitions
