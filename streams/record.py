"""A record of Kafka, as it is read and as it is published."""

from typing import NamedTuple

from streams.events import Event

Headers = list[tuple[str, bytes | None]]  # in order; Kafka allows a header twice, and one without a value

MESSAGE_BYTES = 4 * 1024 * 1024  # what Kafka takes in one batch, after compression
# What we let in, before compression: less, so that it can be published again with all that Kafka adds.
RECORD_BYTES = MESSAGE_BYTES - 64 * 1024
HEADER_BYTES = 16  # not less than what Kafka adds to each header
UNREADABLE = "\ud800"  # the header that says why a batch cannot be read: no name that came in bytes is this one


class Record(NamedTuple):
    """A record: where it is or goes, what it carries, and when it was written (seconds; none: now)."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_s: float | None = None

    def weight(self) -> int:
        """Its bytes before compression, not less than Kafka will count.

        >>> Record("t", 0, b"key", b"value", [("name", b"text")]).weight()
        32
        """
        told = sum(len(name.encode(errors="replace")) + len(text or b"") + HEADER_BYTES for name, text in self.headers)
        return len(self.key or b"") + len(self.value or b"") + told


class Stored(NamedTuple):
    """A record where it stands: its offset, and how many partitions its topic has."""

    record: Record
    offset: int
    partitions: int


def undecodable(headers: Headers) -> str | None:
    r"""Why a record must be rejected whatever its value is; none if there is no reason.

    >>> undecodable([("content-type", b"application/json")])
    >>> undecodable([(bytes([0xE9]).decode(errors="surrogateescape"), b"")])
    "header name must be UTF-8, not b'\\xe9'"
    """
    for name, text in headers:
        if name == UNREADABLE:
            return (text or b"").decode()
        try:
            name.encode()
        except UnicodeEncodeError:
            return f"header name must be UTF-8, not {name[:100].encode(errors='surrogateescape')!r}"
    return None


class Heard(NamedTuple):
    """Where an event stands in its topic, and when Kafka had it (milliseconds since the epoch)."""

    offset: int
    at: int


def heard(record: Record, offset: int, event: Event) -> Heard:
    """The same of a record; one without a time is as old as its event says."""
    at = event.timestamp if record.timestamp_s is None else round(record.timestamp_s * 1000)
    return Heard(offset, at)
