import asyncio
import json
from typing import Any

import pytest
from faust.types.tuples import Message

from agents.curate import Outcome, agent, hear
from streams.record import Headers, Record
from streams.settings import Settings

SETTINGS = Settings(topic_prefix="staging.")
EVENT = json.dumps({"workspace_id": "w", "project_id": "project-1", "timestamp": 1}).encode()
HOME = 6  # partition of project-1, of eight


class Published(list[Record]):
    """What was published, in order."""

    async def __call__(self, record: Record) -> None:
        self.append(record)


def message(
    value: bytes | None = EVENT, *, key: bytes | None = b"project-1", partition: int = HOME, headers: object = ()
) -> Message:
    return Message("staging.media_uploads", partition, 41, 1767225600.123, 0, headers, key, value, None)  # type: ignore[arg-type] # as aiokafka gives them


async def test_an_event_in_its_own_partition_is_heard() -> None:
    published = Published()

    assert await hear(message(), SETTINGS, published) == Outcome.HEARD
    assert published == []


async def test_an_event_in_a_wrong_partition_is_published_again_in_its_own_with_its_headers_and_time() -> None:
    published = Published()
    headers: Headers = [("trace", b"1"), ("trace", b"2"), ("empty", None)]

    outcome = await hear(message(partition=2, headers=headers), SETTINGS, published)

    assert outcome == Outcome.MOVED
    assert published == [Record("staging.media_uploads", HOME, b"project-1", EVENT, headers, 1767225600.123)]


@pytest.mark.parametrize("none", [-0.001, None])
async def test_a_moved_record_that_has_no_time_gets_that_of_now_and_not_1970(none: Any) -> None:
    published = Published()
    untimed = message(partition=2)
    untimed.timestamp = none

    await hear(untimed, SETTINGS, published)

    assert published[0].timestamp_s is None


async def test_what_is_no_event_is_rejected_with_the_reason_wherever_it_came() -> None:
    published = Published()

    outcome = await hear(message(b"{oops", partition=2), SETTINGS, published)

    assert outcome == Outcome.REJECTED
    [told] = published
    assert told[:4] == ("staging.rejected_events", 2, b"project-1", b"{oops")
    assert b"value is no event in application/json" in (dict(told.headers)["error"] or b"")


async def test_an_error_of_kafka_is_fatal_and_the_record_is_not_finished() -> None:
    told: asyncio.Queue[BaseException] = asyncio.Queue()

    async def broken(*_: object) -> None:
        raise OSError("Kafka is gone")

    async def fatal(why: BaseException) -> None:
        await told.put(why)
        await asyncio.Event().wait()

    class OneRecord:
        """A stream with one bad record."""

        async def events(self):  # type: ignore[no-untyped-def]
            yield type("Event", (), {"message": message(b"{oops")})

    body = agent(SETTINGS, broken, fatal)(OneRecord())
    working = asyncio.ensure_future(anext(body))

    assert str(await told.get()) == "Kafka is gone"
    assert not working.done()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
