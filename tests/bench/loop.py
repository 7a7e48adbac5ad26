"""A plain loop over the parts of an ingest: getmany, decode, score, encode, record batches acknowledged, a WriteBatch.

It groups up to 16 chunks in a write, more than our worker does, or writes each by itself. It says how far it is on
standard output, a line for each write.
"""

import argparse
import asyncio
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from streams.overrides import OurOptions
from streams.record import MESSAGE_BYTES, Record
from tables.rows import Change
from tables.store import Store
from tests.bench.parts import Parts

MIB = 1024 * 1024
GROUP_BYTES = 8 * MIB  # of rows in a write, at most, as in tables/partition.py


def rocksdb(folder: Path) -> Any:
    """A RocksDB as Faust opens that of a worker."""
    options = OurOptions(
        block_cache_size=256 * MIB, write_buffer_size=16 * MIB, max_write_buffer_number=2, max_open_files=128
    )
    return options.open(folder)


class Waiting:
    """Rows of chunks that are not written yet, over those of a store; references are read of the store alone."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.rows: dict[bytes, bytes | None] = {}

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of some keys."""
        there = self._store.get(keys)
        return [self.rows.get(key, value) for key, value in zip(keys, there, strict=True)] if self.rows else there

    def scan(self, prefix: bytes, after: bytes = b"") -> Iterable[tuple[bytes, bytes]]:
        """Rows of the store."""
        return self._store.scan(prefix, after)


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
    store, parts, partition = Store(rocksdb(folder)), Parts(), TopicPartition(topic, 0)
    rows = Waiting(store)
    async with consumer, producer:
        consumer.assign([partition])
        while True:
            told = await consumer.getmany(timeout_ms=1000, max_records=group)
            weight = 0
            for message in told.get(partition, ()):
                record = Record(topic, 0, message.key, message.value, list(message.headers))
                changed = await parts.rows_of(record, message.offset, rows)
                rows.rows.update(changed)
                weight += sum(len(value or b"") for _, value in changed)
                if weight > GROUP_BYTES or message is told[partition][-1]:
                    store.write(rows.rows.items(), await appended(producer, changelog, [*rows.rows.items()]))
                    rows.rows, weight = {}, 0
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
