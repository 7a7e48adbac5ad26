from hashlib import sha256

from streams.errors import MalformedEvent
from streams.rejection import rejection

HUGE = bytes(4 * 1024 * 1024)


def test_a_rejected_record_keeps_its_bytes_and_says_where_it_came_from() -> None:
    key, value, headers = rejection("media_uploads", 3, 41, b"p", b"{oops", MalformedEvent("no good"))

    assert (key, value) == (b"p", b"{oops")
    assert dict(headers) == {
        "topic": b"media_uploads",
        "partition": b"3",
        "offset": b"41",
        "length": b"5",
        "sha256": sha256(b"{oops").hexdigest().encode(),
        "error": b"no good",
    }


def test_a_rejected_record_is_small_whatever_came_in() -> None:
    key, value, headers = rejection("t", 0, 0, HUGE, HUGE, MalformedEvent("x" * 10_000_000))

    assert len(key or b"") + len(value) + sum(len(text) for _, text in headers) < 70 * 1024
    assert dict(headers)["length"] == b"%d" % len(HUGE)
    assert dict(headers)["sha256"] == sha256(HUGE).hexdigest().encode()


def test_a_record_without_key_and_value_is_kept_as_such() -> None:
    key, value, headers = rejection("t", 0, 0, None, None, MalformedEvent("empty"))

    assert (key, value, dict(headers)["length"]) == (None, b"", b"0")
