"""What becomes of a record that is no event: it is kept, short, beside the reason."""

from hashlib import sha256

from streams.errors import MalformedEvent
from streams.events import Headers

VALUE_BYTES = 64 * 1024
KEY_BYTES = 1024
ERROR_BYTES = 2 * 1024


def rejection(
    topic: str, partition: int, offset: int, key: bytes | None, value: bytes | None, why: MalformedEvent
) -> tuple[bytes | None, bytes, Headers]:
    """Key, value and headers of the record in `rejected_events`.

    Always far below the largest record, whatever came in: the value is cut at 64 KiB; its whole length and SHA-256
    tell what is missing.
    """
    raw = value or b""
    told = {
        "topic": topic.encode(),
        "partition": b"%d" % partition,
        "offset": b"%d" % offset,
        "length": b"%d" % len(raw),
        "sha256": sha256(raw).hexdigest().encode(),
        "error": str(why).encode(errors="backslashreplace")[:ERROR_BYTES],
    }
    return None if key is None else key[:KEY_BYTES], raw[:VALUE_BYTES], list(told.items())
