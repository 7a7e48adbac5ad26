"""Records in a wrong partition: published again in their own, with a header that tells where they came first.

By it a record counts once, however often it is published again, and is not sent on and on where two programs count
partitions differently.
"""

import re
from hashlib import blake2b
from typing import NamedTuple

from streams.errors import MalformedEvent
from streams.record import Headers, Record

MOVED_FROM = "activeset-moved-from"


class Origin(NamedTuple):
    """Where a record came first, before it was moved to its own partition."""

    partition: int
    offset: int


def moved(record: Record, offset: int, home: int, whose: str) -> Record:
    """The record as it is published in its own partition: key, value, headers and time are kept.

    whose: which Kafka's topics they are. A copy of them elsewhere has other offsets, and the header says nothing there.

    >>> moved(Record("t", 3, b"p", b"v", [("trace", b"1")]), 77, 5, "kafka-1")[1:4]
    (5, b'p', b'v')
    >>> moved(Record("t", 3, b"p", b"v", [("trace", b"1")]), 77, 5, "kafka-1").headers
    [('trace', b'1'), ('activeset-moved-from', b'3:77:5cfe5be8')]
    """
    told = f"{record.partition}:{offset}:{mark(whose)}".encode()
    return record._replace(partition=home, headers=[*record.headers, (MOVED_FROM, told)])


def came(record: Record) -> Record:
    """The record as it came first, before it was moved."""
    return record._replace(headers=[(name, text) for name, text in record.headers if name != MOVED_FROM])


def origin_of(headers: Headers, whose: str) -> Origin | None:
    """Where a record came first, if it was moved here; none if it was not, or in another Kafka.

    Raises:
        MalformedEvent: the header is not one of ours.
    """
    told = [text for name, text in headers if name == MOVED_FROM]
    if not told:
        return None
    found = re.fullmatch(rb"(\d{1,9}):(\d{1,18}):([0-9a-f]{8})", told[-1] or b"")
    if found is None:
        raise MalformedEvent(
            f"header {MOVED_FROM} must be partition:offset:mark, and is for the workers alone to write", "misplaced"
        )
    return Origin(int(found[1]), int(found[2])) if found[3].decode() == mark(whose) else None


def mark(whose: str) -> str:
    """What stands for a Kafka and its topics in a header."""
    return blake2b(whose.encode(), digest_size=4).hexdigest()
