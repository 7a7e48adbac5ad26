"""What becomes of a record that is no event: it is kept, short, beside the reason."""

from hashlib import sha256

from streams.errors import MalformedEvent
from streams.record import Record

VALUE_BYTES = 64 * 1024
KEY_BYTES = 1024
ERROR_BYTES = 2 * 1024


def rejection(record: Record, offset: int, why: MalformedEvent, topic: str) -> Record:
    """The record that tells of another one's rejection, in the same partition of the topic for those.

    Always far below the largest record, whatever came in: the value is cut at 64 KiB; its whole length and SHA-256
    tell what is missing.
    """
    raw = record.value or b""
    told = {
        "topic": record.topic.encode(),
        "partition": b"%d" % record.partition,
        "offset": b"%d" % offset,
        "length": b"%d" % len(raw),
        "sha256": sha256(raw).hexdigest().encode(),
        "error": str(why).encode(errors="backslashreplace")[:ERROR_BYTES],
    }
    key = None if record.key is None else record.key[:KEY_BYTES]
    return Record(topic, record.partition, key, raw[:VALUE_BYTES], [*told.items()])
