import asyncio
from collections.abc import AsyncIterator

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from agents.decide import ROW_BYTES
from streams.offsets import Offsets
from streams.record import MESSAGE_BYTES
from tables.batch import Changelog
from tables.rows import KEPT, Change, pack_int, progress_key
from tests.worker.conftest import a_member


@pytest.fixture
async def changelog(kafka: str, prefix: str) -> AsyncIterator[Changelog]:
    """A changelog with two partitions."""
    topic = f"{prefix}changelog"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    config = {"max.message.bytes": str(MESSAGE_BYTES), "cleanup.policy": "compact"}
    await admin.create_topics([NewTopic(topic, 2, 1, topic_configs=config)])
    await admin.close()
    offsets = Offsets(kafka)
    changelog = Changelog(kafka, topic, offsets)
    yield changelog
    await offsets.close()
    await changelog.close()


async def read(changelog: Changelog, position: int = 0) -> list[Change]:
    ends = await changelog.ends([0, 1])
    return [change async for part in changelog.read({0: position, 1: 0}, ends.offsets) for change in part.changes]


async def test_rows_are_read_as_they_were_written_and_from_any_place_on(changelog: Changelog) -> None:
    writer = changelog.writer(0)
    await writer.start(a_member)

    first = await writer.append([(b"a", b"1"), (b"b", None)])
    second = await writer.append([(b"c", b"3")])
    await writer.stop()

    assert (first, second) == (1, 3)  # between them Kafka has put a record that tells of the end of a transaction
    assert await read(changelog) == [(b"a", b"1"), (b"b", None), (b"c", b"3")]
    assert await read(changelog, first + 1) == [(b"c", b"3")]
    assert await read(changelog, second + 1) == []


async def test_the_rows_of_an_event_may_be_more_than_one_batch(changelog: Changelog) -> None:
    rows: list[Change] = [(b"%d" % n, bytes(100_000)) for n in range(48)]
    rows += [(b"the largest", bytes(ROW_BYTES)), (b"and one more", bytes(ROW_BYTES))]
    writer = changelog.writer(0)
    await writer.start(a_member)

    assert await writer.append(rows) == 49

    await writer.stop()
    assert await read(changelog) == rows


@pytest.fixture
async def not_told_twice() -> None:
    """aiokafka leaves a failed batch's exception in a future of its own, which is logged when it is collected."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)


async def test_a_former_writer_is_refused_once_another_has_started(changelog: Changelog, not_told_twice: None) -> None:
    former, latter = changelog.writer(0), changelog.writer(0)
    await former.start(a_member)
    await former.append([(b"a", b"1")])
    await latter.start(a_member)
    await latter.append([(b"a", b"2")])

    with pytest.raises(KafkaError):
        await former.append([(b"a", b"stale")])

    await former.stop()
    await latter.stop()
    assert await read(changelog) == [(b"a", b"1"), (b"a", b"2")]


async def test_what_a_writer_left_unfinished_is_never_read(changelog: Changelog, not_told_twice: None) -> None:
    former, latter = changelog.writer(0), changelog.writer(0)
    await former.start(a_member)
    kafka = former._producer
    await kafka.begin_transaction()
    await kafka.send_and_wait(former.topic, b"half", b"a", partition=0)

    await latter.start(a_member)
    await latter.append([(b"b", b"whole")])

    await former.stop()
    await latter.stop()
    assert await read(changelog) == [(b"b", b"whole")]


async def test_rows_of_which_kafka_refuses_some_are_not_there_at_all(
    changelog: Changelog, monkeypatch: pytest.MonkeyPatch, not_told_twice: None
) -> None:
    monkeypatch.setattr("tables.batch.BATCH_BYTES", 2 * MESSAGE_BYTES)
    writer = changelog.writer(0)
    await writer.start(a_member)

    with pytest.raises(KafkaError):
        await writer.append([(b"small", bytes(3_000_000)), (b"too large", bytes(MESSAGE_BYTES)), (b"last", b"")])

    await writer.stop()
    after = changelog.writer(0)
    await after.start(a_member)
    await after.stop()
    assert await read(changelog) == []


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "in part"])
async def test_a_transaction_that_kafka_has_forgotten_counts_if_all_its_rows_are_there(
    changelog: Changelog, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    monkeypatch.setattr("tables.batch.FORGOTTEN_S", 0.5)
    every: list[Change] = [(b"b", b"2"), (progress_key("topic"), b"3")]
    rows = every if whole else every[:1]
    writer, ended = changelog.writer(0), list[bool]()
    await writer.start(a_member)
    await writer.append([(b"a", b"1")])
    kafka = writer._producer
    await kafka.begin_transaction()
    for key, value in rows:
        await kafka.send_and_wait(writer.topic, value, key, partition=0)

    async def end(*, commit: bool) -> None:
        """Kafka does not forget at our bidding: the transaction is ended as if it had not."""
        ended.append(commit)
        await (kafka.commit_transaction() if commit else kafka.abort_transaction())

    monkeypatch.setattr(writer, "end_forgotten", end)
    await changelog.settle({0: writer}, (await changelog.ends([0, 1])).offsets)

    assert ended == [whole]
    assert await read(changelog) == [(b"a", b"1"), *(rows if whole else [])]
    await writer.stop()


async def test_nothing_is_ended_where_all_can_be_read(changelog: Changelog, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = changelog.writer(0)
    await writer.start(a_member)
    await writer.append([(b"a", b"1")])

    async def end(*, commit: bool) -> None:
        raise AssertionError(f"nothing is to be ended, {commit}")

    monkeypatch.setattr(writer, "end_forgotten", end)
    await changelog.settle({0: writer}, (await changelog.ends([0, 1])).offsets)
    await writer.stop()


async def test_what_ends_a_forgotten_transaction_is_a_row_that_tells_nothing(changelog: Changelog) -> None:
    writer = changelog.writer(0)
    await writer.start(a_member)

    await writer.end_forgotten(commit=False)
    await writer.end_forgotten(commit=True)
    await writer.append([(b"a", b"1")])
    await writer.stop()

    assert await read(changelog) == [(progress_key(KEPT), pack_int(0)), (b"a", b"1")]
