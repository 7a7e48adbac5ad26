from hashlib import sha256

from streams.errors import MalformedEvent
from streams.record import Record
from streams.rejection import rejection

HUGE = bytes(4 * 1024 * 1024)


def test_a_rejected_record_keeps_its_bytes_and_says_where_it_came_from() -> None:
    told = rejection(Record("media_uploads", 3, b"p", b"{oops", []), 41, MalformedEvent("no good"), "rejected")

    assert told[:4] == ("rejected", 3, b"p", b"{oops")
    assert dict(told.headers) == {
        "topic": b"media_uploads",
        "partition": b"3",
        "offset": b"41",
        "length": b"5",
        "sha256": sha256(b"{oops").hexdigest().encode(),
        "error": b"no good",
    }


def test_a_rejected_record_is_small_whatever_came_in() -> None:
    huge = Record("t", 0, HUGE, HUGE, [("h", HUGE)])

    told = rejection(huge, 0, MalformedEvent("x" * 10_000_000), "rejected")

    assert told.weight() < 70 * 1024
    assert dict(told.headers)["length"] == b"%d" % len(HUGE)
    assert dict(told.headers)["sha256"] == sha256(HUGE).hexdigest().encode()


def test_a_record_without_key_and_value_is_kept_as_such() -> None:
    told = rejection(Record("t", 0, None, None, []), 0, MalformedEvent("empty"), "rejected")

    assert (told.key, told.value, dict(told.headers)["length"]) == (None, b"", b"0")
