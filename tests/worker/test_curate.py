import asyncio
import json
from typing import Any

import pytest

from agents.curate import Outcome
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
    assert house.published == [Record(TOPIC, HOME, b"project-1", EVENT, headers, 1767225600.123)]


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

    assert await house.curator.hear(late, "model_activations") == Outcome.SKIPPED
    assert house.changelog.rows[HOME] == []


async def test_a_row_that_kafka_would_not_take_rejects_its_event(house: House) -> None:
    labels = [{"id": f"{n:0200}"} for n in range(6000)]

    outcome = await house.says("project_updates", dataset_storage_id="s", tasks=[{"task_id": "t", "labels": labels}])

    assert outcome == Outcome.REJECTED
    assert b"must be at most 1048576 bytes" in (dict(house.published[0].headers)["error"] or b"")


async def test_an_error_of_kafka_is_fatal_and_the_record_is_not_finished(house: House) -> None:
    told: asyncio.Queue[BaseException] = asyncio.Queue()

    async def fatal(why: BaseException) -> None:
        await told.put(why)
        await asyncio.Event().wait()

    class OneRecord:
        """A stream with one record."""

        async def events(self):  # type: ignore[no-untyped-def]
            yield type("Event", (), {"message": message(record())})

    house.fatal = fatal  # type: ignore[method-assign]
    house.__post_init__()
    house.changelog.broken = True
    body = house.curator.agent("model_activations")(OneRecord())
    working = asyncio.ensure_future(anext(body))

    assert str(await told.get()) == "Kafka did not say whether it has it"
    assert not working.done()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
