"""A plain loop over the parts of an ingest: getmany, decode, score, encode, record batches acknowledged, a WriteBatch.

It groups chunks as our worker does, up to 16 in a write, or writes each by itself. It says how far it is on standard
output, a line for each write.
"""

import argparse
import asyncio
import sys
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from rocksdict import Rdict

from streams.overrides import OurOptions
from streams.record import MESSAGE_BYTES, Record
from tables.pending import Pending
from tables.rows import Change
from tables.store import Store
from tests.bench.parts import Parts

MIB = 1024 * 1024
GROUP_BYTES = 8 * MIB  # of rows in a write, at most, as in tables/partition.py


def opened(folder: Path) -> Rdict:
    """A RocksDB as that of a worker with one partition."""
    options = OurOptions(
        write_buffer_size=16 * MIB, max_write_buffer_number=2, max_open_files=128, block_cache_size=256 * MIB
    )
    found: Rdict = options.open(folder)
    return found


async def appended(producer: AIOKafkaProducer, topic: str, changed: list[Change]) -> int:
    """Append rows in as few record batches as they fit into; the offset of the last one."""
    sent, batch, count = [], producer.create_batch(), 0
    for key, value in changed:
        if batch.append(key=key, value=value, timestamp=None) is None:
            sent.append(await producer.send_batch(batch, topic, partition=0))
            batch, count = producer.create_batch(), 0
            batch.append(key=key, value=value, timestamp=None)
        count += 1
    sent.append(await producer.send_batch(batch, topic, partition=0))
    told = await asyncio.gather(*sent)
    return int(told[-1].offset) + count - 1


async def loop(broker: str, topic: str, changelog: str, folder: Path, group: int) -> None:
    """Read a topic for ever.

    group: chunks of a write, at most.
    """
    consumer = AIOKafkaConsumer(
        bootstrap_servers=broker,
        enable_auto_commit=False,
        max_partition_fetch_bytes=MESSAGE_BYTES,
        auto_offset_reset="earliest",
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=broker, acks="all", max_batch_size=MIB, max_request_size=MESSAGE_BYTES
    )
    store, parts, partition = Store(opened(folder)), Parts(), TopicPartition(topic, 0)
    rows = Pending(store)
    async with consumer, producer:
        consumer.assign([partition])
        while True:
            told = await consumer.getmany(timeout_ms=1000, max_records=group)
            weight = 0
            for message in told.get(partition, ()):
                record = Record(topic, 0, message.key, message.value, list(message.headers))
                of_chunk = parts.rows_of(record, message.offset, rows)
                rows.fold(of_chunk)
                weight += sum(len(value or b"") for _, value in of_chunk)
                if weight > GROUP_BYTES or message is told[partition][-1]:
                    changed, weight = rows.take(), 0
                    store.write(changed, await appended(producer, changelog, changed))
                    rows.written()
                    sys.stdout.write(f"{message.offset}\n")
                    sys.stdout.flush()


def main() -> None:
    """Run until killed."""
    parser = argparse.ArgumentParser()
    for each in ("broker", "topic", "changelog"):
        parser.add_argument(each)
    parser.add_argument("folder", type=Path)
    parser.add_argument("group", type=int)
    given = parser.parse_args()
    asyncio.run(loop(given.broker, given.topic, given.changelog, given.folder, given.group))


if __name__ == "__main__":
    main()
