"""The changelog during a run: all of it, kept by who reads along; and compacted."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import confluent_kafka.admin
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from streams.topics import CHANGELOG
from tables.rows import SWEEPS
from tests.broker.oracle import Appended, appended
from tests.broker.programs import ALL

admin: Any = confluent_kafka.admin  # which types half of its names
POLL_S = 0.2
PATIENCE_S = 120.0
EAGER = {
    "segment.ms": "100",
    "min.cleanable.dirty.ratio": "0.001",
    "min.compaction.lag.ms": "0",
    "max.compaction.lag.ms": "1000",
    "delete.retention.ms": "100",
}

Records = dict[int, list[tuple[int, bytes, bytes | None]]]  # of each partition: offset, key, value


def a_reader(kafka: str, prefix: str, *, committed: bool) -> Consumer:
    """Who reads every partition of the changelog from its beginning on."""
    reader = Consumer(
        {
            "bootstrap.servers": kafka,
            "group.id": "chaos",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed" if committed else "read_uncommitted",
            "log_level": 2,
        }
    )
    reader.assign([TopicPartition(prefix + CHANGELOG.name, number, OFFSET_BEGINNING) for number in ALL])
    return reader


@dataclass
class Archive:
    """All that was ever committed to the changelog, though Kafka forgets some of it: read along by a thread.

    sweeping: rows that tell what is to be swept still.
    """

    kafka: str
    prefix: str
    records: Records = field(default_factory=lambda: {number: [] for number in ALL})
    sweeping: set[tuple[int, bytes]] = field(default_factory=set)
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._read, name="archive", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _read(self) -> None:
        reader = a_reader(self.kafka, self.prefix, committed=True)
        try:
            while not self._over.is_set():
                for message in reader.consume(1000, POLL_S):
                    if message.error() is None:
                        self._take(
                            message.partition() or 0, message.offset() or 0, message.key() or b"", message.value()
                        )
        finally:
            reader.close()

    def _take(self, number: int, offset: int, key: bytes, value: bytes | None) -> None:
        self.records[number].append((offset, key, value))
        if key.startswith(SWEEPS):
            (self.sweeping.discard if value is None else self.sweeping.add)((number, key))

    @property
    def swept(self) -> bool:
        """Whether nothing is to be swept any more, as far as it was read."""
        return not self.sweeping


def ever(read: Records, there: Appended) -> Appended:
    """All that was ever committed: what was read along, and what came after that.

    there: what Kafka has of it now.
    """
    ends = {number: told[-1][0] if told else -1 for number, told in read.items()}
    more = {number: [each for each in there.records[number] if each[0] > ends[number]] for number in read}
    return appended({number: [*told, *more[number]] for number, told in read.items()})


def compact(kafka: str, prefix: str) -> str:
    """Have Kafka remove from the changelog what was replaced or deleted by now, while others write to it.

    It leaves the segment that is written to as it is, and begins a new one only when something is appended. Says how
    that went; the changelog is kept as it was configured from then on.
    """
    began = time.monotonic()
    wanted = ends(kafka, prefix)
    configure(kafka, prefix, EAGER)
    while time.monotonic() < began + PATIENCE_S:
        if not tombstones(kafka, prefix, wanted):
            return f"the changelog was compacted in {time.monotonic() - began:.0f} s"
        time.sleep(2)
    return f"the changelog was NOT compacted within {PATIENCE_S:.0f} s"


def configure(kafka: str, prefix: str, wanted: Mapping[str, str | None]) -> None:
    """Configure the changelog; what is none, as Kafka does by default."""
    kinds = admin.AlterConfigOpType
    entries = [
        admin.ConfigEntry(name, value or "", incremental_operation=kinds.DELETE if value is None else kinds.SET)
        for name, value in wanted.items()
    ]
    topic = admin.ConfigResource(admin.ResourceType.TOPIC, prefix + CHANGELOG.name, incremental_configs=entries)
    client = admin.AdminClient({"bootstrap.servers": kafka})
    for answer in client.incremental_alter_configs([topic]).values():
        answer.result()


def ends(kafka: str, prefix: str) -> dict[int, int]:
    """Where each partition of the changelog ends: the offset of the record that comes next."""
    reader = a_reader(kafka, prefix, committed=False)
    try:
        topic = prefix + CHANGELOG.name
        return {number: reader.get_watermark_offsets(TopicPartition(topic, number), timeout=30)[1] for number in ALL}
    finally:
        reader.close()


def tombstones(kafka: str, prefix: str, up_to: dict[int, int]) -> int:
    """How many deletions the changelog still tells, up to an offset of each partition."""
    reader, count = a_reader(kafka, prefix, committed=False), 0
    behind = {number for number, end in up_to.items() if end}
    give_up = time.monotonic() + PATIENCE_S
    try:
        while behind and time.monotonic() < give_up:
            for message in reader.consume(1000, POLL_S):
                why = message.error()
                if why is not None and why.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(why)
                number, offset = message.partition() or 0, message.offset() or 0
                if offset >= up_to[number] - 1:
                    behind.discard(number)
                count += why is None and offset < up_to[number] and message.value() is None
        return count
    finally:
        reader.close()
