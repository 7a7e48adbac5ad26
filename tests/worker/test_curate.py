import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiokafka.errors import InvalidTimestampError
from faust.types.tuples import Message

from agents.curate import Outcome
from streams.moves import mark
from streams.record import Headers, Record
from tests.worker.conftest import GENERATION, HOME, NOW, PROJECT, House, message

TOPIC = "staging.model_activations"
EVENT = json.dumps(
    {"workspace_id": "w", "project_id": PROJECT, "timestamp": NOW, "task_id": "t1", "model_id": "m1"}
).encode()


def record(value: bytes = EVENT, *, partition: int = HOME, headers: Headers | None = None) -> Record:
    return Record(TOPIC, partition, PROJECT.encode(), value, headers or [], 1767225600.123)


async def test_an_event_in_its_own_partition_is_heard(house: House) -> None:
    assert await house.hear(record(), "model_activations") == Outcome.HEARD
    assert house.published == []


async def test_an_event_in_a_wrong_partition_is_published_again_in_its_own_with_its_headers_and_time(
    house: House,
) -> None:
    headers: Headers = [("trace", b"1"), ("trace", b"2"), ("empty", None)]

    outcome = await house.hear(record(partition=2, headers=headers), "model_activations")

    assert outcome == Outcome.MOVED
    moved_from: Headers = [("activeset-moved-from", f"2:0:{mark(house.state.origin)}".encode())]
    assert house.published == [Record(TOPIC, HOME, b"project-1", EVENT, headers + moved_from, 1767225600.123)]


async def test_a_record_that_was_moved_is_heard_once_where_it_belongs_and_moved_nowhere_else(house: House) -> None:
    await house.hear(record(partition=2), "model_activations")
    house.ends.clear()
    [moved] = house.published

    outcomes = [await house.hear(moved, "model_activations") for _ in range(2)]
    elsewhere = await house.hear(moved._replace(partition=5), "model_activations", offset=0)

    assert outcomes == [Outcome.HEARD, Outcome.SKIPPED]
    assert elsewhere == Outcome.REJECTED
    told = dict(house.published[-1].headers)["error"] or b""
    assert b"moved from partition 2 to 5, and belongs to 6" in told


@pytest.mark.parametrize("told", [b"", b"2", b"2:3", b"2:x:00112233", b"-1:3:00112233", b"2:3:4", None])
async def test_a_header_of_ours_that_others_made_up_is_rejected(house: House, told: bytes | None) -> None:
    made_up = record(headers=[("activeset-moved-from", told)])

    assert await house.hear(made_up, "model_activations") == Outcome.REJECTED


async def test_a_record_that_was_moved_in_another_kafka_is_as_any_other(house: House) -> None:
    copied: Headers = [("activeset-moved-from", b"2:77:00112233")]

    outcomes = [await house.hear(record(headers=copied), "model_activations") for _ in range(2)]
    await house.hear(record(partition=2, headers=copied), "model_activations", offset=0)

    assert outcomes == [Outcome.HEARD] * 2
    assert house.published[0].headers[0] == copied[0]
    assert await house.hear(house.published[0], "model_activations") == Outcome.HEARD


async def test_a_record_that_kafka_does_not_take_in_its_own_partition_is_rejected(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = house.send

    async def refuses_what_is_moved(record: Record) -> "asyncio.Future[int]":
        sent = await send(record)
        if record.topic == TOPIC:
            sent = asyncio.get_running_loop().create_future()
            sent.set_exception(InvalidTimestampError("it is too old"))
        return sent

    monkeypatch.setattr(house, "send", refuses_what_is_moved)
    house.__post_init__()

    assert await house.hear(record(partition=2), "model_activations") == Outcome.REJECTED
    assert b"belongs to partition 6, where Kafka does not take it" in (
        dict(house.published[-1].headers)["error"] or b""
    )


async def test_what_is_missing_is_read_again_once_and_then_counted(house: House) -> None:
    outcomes = [await house.hear(record(), "model_activations", offset) for offset in (0, 3, 4, 3, 4)]

    assert outcomes == [Outcome.HEARD, Outcome.POSTPONED, Outcome.POSTPONED, Outcome.HEARD, Outcome.HEARD]
    assert house.asked_again == [(TOPIC, HOME, 1)]
    assert house.counts["gaps"] == 1


async def test_what_was_only_lost_on_its_way_is_heard_in_its_order(house: House) -> None:
    outcomes = [await house.hear(record(), "model_activations", offset) for offset in (0, 3, 1, 2, 3)]

    assert outcomes == [Outcome.HEARD, Outcome.POSTPONED, *[Outcome.HEARD] * 3]
    assert house.asked_again == [(TOPIC, HOME, 1)]
    assert house.counts["gaps"] == 0


@pytest.mark.parametrize("none", [-0.001, None])
async def test_a_moved_record_that_has_no_time_gets_that_of_now_and_not_1970(house: House, none: Any) -> None:
    await house.hear(record(partition=2)._replace(timestamp_s=none), "model_activations")

    assert house.published[0].timestamp_s is None


async def test_what_is_no_event_is_rejected_with_the_reason_wherever_it_came(house: House) -> None:
    outcome = await house.hear(record(b"{oops", partition=2), "model_activations")

    assert outcome == Outcome.REJECTED
    [told] = house.published
    assert told[:4] == ("staging.rejected_events", 2, b"project-1", b"{oops")
    assert b"value is no event of model_activations in application/json" in (dict(told.headers)["error"] or b"")


async def test_what_was_moved_or_rejected_is_not_moved_or_rejected_again_when_it_is_replayed(house: House) -> None:
    for replay in (False, True):
        outcomes = [
            await house.hear(record(partition=2), "model_activations", offset=0),
            await house.hear(record(b"{oops", partition=2), "model_activations", offset=1),
        ]
        assert (outcomes == [Outcome.SKIPPED] * 2) is replay

    assert len(house.published) == 2


async def test_what_came_in_another_generation_is_left_to_the_partitions_owner(house: House) -> None:
    late = message(record(), generation=GENERATION - 1)

    assert await (await house.curator.hear(late, "model_activations")) == Outcome.SKIPPED
    assert house.changelog.rows[HOME] == []


async def test_a_row_that_kafka_would_not_take_rejects_its_event(house: House) -> None:
    labels = [{"id": f"{n:0200}"} for n in range(6000)]

    outcome = await house.says("project_updates", dataset_storage_id="s", tasks=[{"task_id": "t", "labels": labels}])

    assert outcome == Outcome.REJECTED
    assert b"must be at most 1048576 bytes" in (dict(house.published[0].headers)["error"] or b"")


class Stream:
    """A stream of records that Faust hands to an agent."""

    def __init__(self, *messages: Message) -> None:
        self.messages = messages

    async def events(self) -> AsyncIterator[Any]:
        for each in self.messages:
            yield type("Event", (), {"message": each})
        await asyncio.Event().wait()


async def test_an_error_of_kafka_is_fatal_and_the_record_is_not_finished(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: asyncio.Queue[BaseException] = asyncio.Queue()
    monkeypatch.setattr(house, "fatal", told.put_nowait)
    house.__post_init__()
    house.changelog.broken = True

    working = asyncio.ensure_future(house.curator.agent("model_activations")(Stream(message(record()))))

    assert str(await told.get()) == "Kafka did not say whether it has it"
    assert house.finished == []
    working.cancel()


async def test_an_agent_goes_on_while_kafka_has_not_acknowledged_and_finishes_records_when_it_has(
    house: House, acknowledge: Callable[[], None]
) -> None:
    messages = [message(record(), offset) for offset in range(3)]
    working = asyncio.ensure_future(house.curator.agent("model_activations")(Stream(*messages)))
    partition = house.state.owned(HOME)
    while partition.folded("model_activations") < 2:
        await asyncio.sleep(0)

    assert house.finished == []
    assert [each.refcount for each in messages] == [1, 1, 1]
    acknowledge()
    while len(house.finished) < 3:
        await asyncio.sleep(0)

    assert house.finished == messages
    assert house.counts["heard"] == 3
    working.cancel()
