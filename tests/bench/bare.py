"""A changelog read with a bare getmany loop into RocksDB write batches; says how many records there were, and how long
that took on the clock and of the CPU.
"""

import argparse
import asyncio
import sys
import time
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition
from rocksdict import WriteBatch

from streams.record import MESSAGE_BYTES
from tests.bench.loop import rocksdb

SLICE = 5000  # records of a write batch, at most, as in tables/batch.py


async def read(broker: str, topic: str, folder: Path) -> str:
    """Read a topic from its beginning to its end."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=broker,
        enable_auto_commit=False,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=MESSAGE_BYTES,
    )
    database, partition, count = rocksdb(folder), TopicPartition(topic, 0), 0
    async with consumer:
        end = (await consumer.end_offsets([partition]))[partition]
        consumer.assign([partition])
        began, cpu = time.perf_counter(), time.process_time()
        while await consumer.position(partition) < end:
            for records in (await consumer.getmany(timeout_ms=100, max_records=SLICE)).values():
                batch = WriteBatch(raw_mode=True)
                for record in records:
                    assert record.key is not None
                    if record.value is None:
                        batch.delete(record.key)
                    else:
                        batch.put(record.key, record.value)
                database.write(batch)
                count += len(records)
        return f"{count} {time.perf_counter() - began} {time.process_time() - cpu}\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("broker")
    parser.add_argument("topic")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    sys.stdout.write(asyncio.run(read(given.broker, given.topic, given.folder)))
