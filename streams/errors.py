"""What can go wrong, sorted by what the reader should do about it."""

from typing import Literal

from aiokafka.errors import (
    InvalidTimestampError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    RecordTooLargeError,
)

# What Kafka says of a record that it will never take.
REFUSALS = (
    InvalidTimestampError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    RecordTooLargeError,
)


# What may be wrong with a record: its batch or a header cannot be read, it is too large, its bytes are not in the
# encoding that it tells or in none that we know, it is not as its type is, its key is another project's, its columns do
# not fit together, or it belongs to another partition and cannot be moved there.
Fault = Literal["unreadable", "too_large", "encoding", "schema", "key", "columns", "misplaced"]


class ActivesetError(Exception):
    """Whatever Activeset says is wrong; its text is a sentence for the person who can mend it."""

    exit_status = 1


class MalformedEvent(ActivesetError):
    """The bytes are no event: they go to `rejected_events` and are never tried again.

    fault: of which kind what is wrong is. The text may show some of the event; this never does.
    """

    def __init__(self, told: str, fault: Fault = "schema") -> None:
        super().__init__(told)
        self.fault: Fault = fault


class BadQuery(ActivesetError):
    """The question is wrong: 400, naming the parameter and what it may be."""


class UnknownProject(ActivesetError):
    """No event has told of this project: 404."""


class UnknownTask(ActivesetError):
    """The project has no such task: 404."""


class UnknownMedium(ActivesetError):
    """The project has no such medium, or it was deleted: 404."""


class UnknownLease(ActivesetError):
    """The project has no such lease, or it ended long ago: 404."""


class NotTheirLease(ActivesetError):
    """The lease is another user's: 403."""


class LeaseOver(ActivesetError):
    """The lease has run out, or nothing is left of it: 410; its media may be others' by now."""


class RequestUsed(ActivesetError):
    """The request id was used before, for something else or something that is over: 409, take another one."""


class WrongMediaType(ActivesetError):
    """The body is not in JSON: 415."""


class NotReady(ActivesetError):
    """The tables are being rebuilt, or the partition is moving: 503, try again soon."""


class CorruptStore(ActivesetError):
    """A file of the worker's own tables is damaged: the worker ends, and restores them from Kafka when it starts."""


class BadSettings(ActivesetError):
    """An operator's mistake: the start ends with exit status 2, naming the variable."""

    exit_status = 2


class KafkaUnavailable(ActivesetError):
    """Kafka cannot be started or reached: the start ends with exit status 1, telling the cure."""


class RecordRefused(ActivesetError):
    """Kafka refuses this record and would refuse it again: whoever sent it must change it, or the topic's limits."""
