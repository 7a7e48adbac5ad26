"""What an operator's commands read of a real Kafka's topics (streams/reader.py)."""

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.consumer import fetcher
from aiokafka.record.memory_records import MemoryRecords

from streams.reader import last, records
from streams.record import MESSAGE_BYTES, Record, undecodable
from streams.settings import Settings
from tests.broker.test_lenient import LET_IN, writing


@pytest.fixture
async def settings(kafka: str, prefix: str) -> Settings:
    """Settings that count eight partitions, and a topic that has three."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    await admin.create_topics([NewTopic(f"{prefix}t", 3, 1, topic_configs={"max.message.bytes": str(MESSAGE_BYTES)})])
    await admin.close()
    return Settings(broker=kafka, topic_prefix=prefix)


async def write(settings: Settings, count: int, *partitions: int, transaction: str | None = None) -> None:
    """Numbers from 0 on, a batch for each, in some partitions."""
    async with AIOKafkaProducer(bootstrap_servers=settings.broker, transactional_id=transaction) as producer:
        for number in range(count):
            if transaction:
                await producer.begin_transaction()
            for partition in partitions:
                await producer.send_and_wait(settings.name("t"), b"%d" % number, partition=partition)
            if transaction:
                await producer.commit_transaction()


async def test_all_partitions_that_a_topic_has_are_read(settings: Settings) -> None:
    await write(settings, 5, 0, 2)

    found = [each async for each in records(settings, "t")]

    for partition in (0, 2):
        values = [each.record.value for each in found if each.record.partition == partition]
        assert values == [b"0", b"1", b"2", b"3", b"4"]
    assert {each.partitions for each in found} == {3}


async def test_a_topic_that_is_not_there_has_no_records(settings: Settings) -> None:
    assert [each async for each in records(settings, "other")] == []
    assert [each async for each in last(settings, "other", 5, lambda _: True)] == []


async def test_what_cannot_be_unpacked_ends_no_look(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher, "MemoryRecords", MemoryRecords)  # whoever has built a worker has installed ours
    await write(settings, 1, 0)
    async with writing(settings.broker, settings.name("t")) as write_batch:
        assert await write_batch(LET_IN["what follows lz4"]) == 0
    await write(settings, 1, 0)

    before, stands, after = [each.record async for each in records(settings, "t")]

    assert [before.value, after.value] == [b"0", b"0"]
    assert undecodable(stands.headers)


@pytest.mark.parametrize("transaction", [None, "markers lie between the records"])
async def test_the_last_records_are_read_from_the_end(settings: Settings, prefix: str, transaction: str | None) -> None:
    await write(settings, 100, 0, 1, transaction=transaction and prefix)
    looked_at: list[int] = []

    def wanted(record: Record) -> bool:
        looked_at.append(int(record.value or b""))
        return looked_at[-1] <= 90 or record.partition == 1

    found = [each.record async for each in last(settings, "t", 4, wanted)]

    for partition, most in ((0, 90), (1, 99)):
        values = sorted(int(each.value or b"") for each in found if each.partition == partition)
        assert values[-4:] == [*range(most - 3, most + 1)]
    assert min(looked_at) > 50


async def test_a_topic_with_fewer_records_than_are_wanted_is_read_to_its_beginning(settings: Settings) -> None:
    await write(settings, 9, 2)

    found = [each.record async for each in last(settings, "t", 2, lambda record: record.value == b"0")]

    assert [each.value for each in found] == [b"0"]
