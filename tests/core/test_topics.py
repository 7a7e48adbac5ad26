from typing import Any

import pytest
from aiokafka.errors import LeaderNotAvailableError, TopicAuthorizationFailedError, UnknownTopicOrPartitionError

from streams.topics import described


class Admin:
    """An admin client that gives its answers in turn."""

    def __init__(self, *error_codes: int) -> None:
        self.error_codes = list(error_codes)

    async def describe_topics(self, names: list[str]) -> list[dict[str, Any]]:
        code = self.error_codes.pop(0)
        return [{"topic": name, "error_code": code, "partitions": []} for name in names]


async def test_a_topic_that_was_made_a_moment_ago_is_waited_for() -> None:
    admin: Any = Admin(UnknownTopicOrPartitionError.errno, LeaderNotAvailableError.errno, 0)

    assert [told["topic"] for told in await described(admin, ["media_uploads"])] == ["media_uploads"]
    assert admin.error_codes == []


async def test_a_topic_that_stays_unknown_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.topics.SETTLE_S", -1)
    admin: Any = Admin(UnknownTopicOrPartitionError.errno)

    with pytest.raises(UnknownTopicOrPartitionError):
        await described(admin, ["media_uploads"])


async def test_a_topic_that_may_not_be_seen_is_not_waited_for() -> None:
    admin: Any = Admin(TopicAuthorizationFailedError.errno, 0)

    with pytest.raises(TopicAuthorizationFailedError, match="media_uploads"):
        await described(admin, ["media_uploads"])
