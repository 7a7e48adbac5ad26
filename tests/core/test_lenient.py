"""Batches are made by hand here: aiokafka's builder writes none of what Kafka lets in and aiokafka cannot read."""

import inspect
import struct
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Any

import pytest
from aiokafka import codec
from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import READ_COMMITTED, READ_UNCOMMITTED, Fetcher, PartitionRecords
from aiokafka.errors import CorruptRecordException, UnsupportedCodecError
from aiokafka.record.default_records import DefaultRecordBatchBuilder, _DefaultRecordBatchPy
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords, _MemoryRecordsPy
from aiokafka.record.util import calc_crc32c, decode_varint_py, encode_varint
from aiokafka.structs import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from streams.lenient import UNPACKED_BYTES, Batches, install
from streams.record import undecodable

NONE, GZIP, SNAPPY, LZ4, ZSTD = CODECS = range(5)
PACK: dict[int, Callable[[bytes], bytes]] = {
    NONE: bytes,
    GZIP: codec.gzip_encode,
    SNAPPY: codec.snappy_encode,
    LZ4: codec.lz4_encode,
    ZSTD: codec.zstd_encode,
}
TIME_MS = 1_700_000_000_000
TRANSACTIONAL, CONTROL = 0x10, 0x20
NOT_UTF8 = [(b"caf\xe9", b"latin-1")]

RawHeaders = Iterable[tuple[bytes, bytes | None]]


def varint(number: int) -> bytes:
    written = bytearray()
    encode_varint(number, written.append)
    return bytes(written)


def field(data: bytes | None) -> bytes:
    return varint(-1) if data is None else varint(len(data)) + data


def record(
    at: int,
    value: bytes | None = b"value",
    headers: RawHeaders = (),
    *,
    key: bytes | None = b"p",
    attributes: bytes = b"\0",
    size: int | None = None,
) -> bytes:
    """A record as it is on the wire. at: its place in the batch. size: what it tells of itself, if that is wrong."""
    told = [*headers]
    body = attributes + varint(0) + varint(at) + field(key) + field(value)
    body += varint(len(told)) + b"".join(field(name) + field(text) for name, text in told)
    return varint(len(body) if size is None else size) + body


def batch(
    records: bytes, count: int, attributes: int = 0, *, at: int = 0, last: int | None = None, producer: int = -1
) -> bytes:
    """A batch as it is on the wire.

    records: compressed, if the attributes say so. at, last: its first offset, and how much higher its last is.
    """
    head = (attributes, count - 1 if last is None else last, TIME_MS, TIME_MS, producer, -1, -1, count)
    body = struct.pack(">hiqqqhii", *head) + records
    return struct.pack(">qiiBI", at, 9 + len(body), 0, 2, calc_crc32c(body)) + body


def packed(kind: int, *records: bytes, at: int = 0) -> bytes:
    """A batch of records, compressed."""
    return batch(PACK[kind](b"".join(records)), len(records), kind, at=at)


def fetched(data: bytes, records: Any = Batches, offset: int = 0, **how: Any) -> list[Any]:
    """What aiokafka's fetcher makes of a part of a log."""
    asked = {"aborted_transactions": [], "isolation_level": READ_UNCOMMITTED, "check_crcs": True, **how}
    deserializers = {"key_deserializer": None, "value_deserializer": None}
    return [*PartitionRecords(TopicPartition("t", 0), records(data), fetch_offset=offset, **deserializers, **asked)]


def told(records: list[Any]) -> list[tuple[int, bytes | None]]:
    return [(each.offset, each.value) for each in records]


names, texts = st.text(max_size=5), st.none() | st.binary(max_size=20)
entries = st.tuples(texts, texts, st.lists(st.tuples(names, texts), max_size=3), st.integers(0, 10_000))


@given(st.lists(entries, min_size=1, max_size=8), st.sampled_from(CODECS), st.integers(0, 8))
def test_what_aiokafka_can_read_is_read_as_aiokafka_reads_it(
    entries: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]], int]], kind: int, offset: int
) -> None:
    builder = DefaultRecordBatchBuilder(2, kind, 0, -1, -1, -1, 1_000_000)
    for place, (key, value, headers, after_ms) in enumerate(entries):
        builder.append(place, TIME_MS + after_ms, key, value, headers)
    data = bytes(builder.build())

    assert fetched(data, offset=offset) == fetched(data, MemoryRecords, offset)


@given(st.lists(entries, min_size=1, max_size=8), st.sampled_from(CODECS), st.data())
def test_beside_a_name_that_is_not_utf_8_all_is_read_as_it_would_be(
    entries: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]], int]],
    kind: int,
    data: st.DataObject,
) -> None:
    raw = [(value, [(name.encode(), text) for name, text in headers], key) for key, value, headers, _ in entries]
    good = [record(place, value, headers, key=key) for place, (value, headers, key) in enumerate(raw)]
    bad = data.draw(st.integers(0, len(raw) - 1))
    value, headers, key = raw[bad]
    poisoned = [*good[:bad], record(bad, value, [*headers, *NOT_UTF8], key=key), *good[bad + 1 :]]

    read, would_be = fetched(packed(kind, *poisoned)), fetched(packed(kind, *good), MemoryRecords)

    assert read.pop(bad).headers == (*would_be.pop(bad).headers, ("caf\udce9", b"latin-1"))
    assert read == would_be


@pytest.mark.parametrize("kind", CODECS)
def test_a_record_whose_header_name_is_not_utf_8_arrives_with_its_value_between_its_neighbours(kind: int) -> None:
    data = packed(kind, record(0, b"before"), record(1, b"bad", NOT_UTF8), record(2, b"after"))

    assert told(fetched(data)) == [(0, b"before"), (1, b"bad"), (2, b"after")]
    assert [undecodable([*each.headers]) for each in fetched(data)] == [
        None,
        "header name must be UTF-8, not b'caf\\xe9'",
        None,
    ]


def test_aiokafka_still_cannot_read_it() -> None:
    with pytest.raises(UnicodeDecodeError):
        fetched(packed(NONE, record(0, b"bad", NOT_UTF8)), MemoryRecords)


def test_the_bytes_of_a_surrogate_are_not_utf_8() -> None:
    (read,) = fetched(packed(NONE, record(0, headers=[(b"\xed\xa0\x80", None)])))

    assert undecodable([*read.headers]) == r"header name must be UTF-8, not b'\xed\xa0\x80'"


def test_a_long_name_is_told_short() -> None:
    (read,) = fetched(packed(NONE, record(0, headers=[(b"\xff" * 10_000, None)])))

    assert len(undecodable([*read.headers]) or "") < 500


def test_attributes_that_are_not_in_use_are_passed_over() -> None:
    data = packed(NONE, record(0, b"before"), record(1, b"odd", attributes=b"\x80"), record(2, b"after"))

    assert told(fetched(data)) == [(0, b"before"), (1, b"odd"), (2, b"after")]


def test_timestamps_of_the_broker_are_read_beside_a_name_that_is_not_utf_8() -> None:
    read = fetched(batch(record(0, headers=NOT_UTF8), 1, 0x08))

    assert [(each.timestamp, each.timestamp_type) for each in read] == [(TIME_MS, 1)]


GOOD = record(0) + record(1)
TOO_MANY = record(0, bytes(UNPACKED_BYTES))
UNREADABLE = {
    "a record tells a wrong length": (batch(PACK[GZIP](record(0) + record(1, size=3)), 2, GZIP), "not of the 3 bytes"),
    "an offset is far ahead": (batch(record(0) + record(2**31 - 1), 2), "offset 2147483647 stands where 1 must be"),
    "an offset comes again": (batch(record(0) + record(0), 2), "offset 0 stands where 1 must be"),
    "a length is beyond the end": (batch(record(0) + record(1)[:-8], 2), "IndexError"),
    "what follows gzip": (batch(PACK[GZIP](GOOD) + b"more", 2, GZIP), "BadGzipFile"),
    "what follows lz4": (batch(PACK[LZ4](GOOD) + b"more", 2, LZ4), "DecompressionError"),
    "what follows snappy": (batch(PACK[SNAPPY](GOOD) + b"mo", 2, SNAPPY), "requires a buffer of at least 4 bytes"),
    "gzip is cut off": (batch(PACK[GZIP](GOOD)[:-9], 2, GZIP), "EOFError"),
    "no zstd": (batch(b"no zstd", 2, ZSTD), "DecompressionError"),
}


@pytest.mark.parametrize(("data", "reason"), UNREADABLE.values(), ids=UNREADABLE)
def test_for_what_cannot_be_read_one_record_stands_at_the_last_offset(data: bytes, reason: str) -> None:
    *before, stands, after = fetched(data + packed(NONE, record(0, b"after"), at=2))

    assert told(before) in ([], [(0, b"value")])
    assert (stands.offset, stands.key, stands.value, stands.timestamp) == (1, None, data[61:], TIME_MS)
    why = undecodable([*stands.headers]) or ""
    assert why.startswith(f"the records at offsets {len(before)} to 1 cannot be ")
    assert reason in why
    assert told([after]) == [(2, b"after")]


@pytest.mark.parametrize("kind", CODECS[1:])
def test_what_unpacks_to_too_much_cannot_be_read(kind: int) -> None:
    (stands,) = fetched(packed(kind, TOO_MANY))

    assert f"offsets 0 to 0 cannot be unpacked into {UNPACKED_BYTES} bytes" in (undecodable([*stands.headers]) or "")


@pytest.mark.parametrize("kind", CODECS)
def test_what_unpacks_to_much_can_be_read(kind: int) -> None:
    assert told(fetched(packed(kind, record(0, bytes(UNPACKED_BYTES - 100))))) == [(0, bytes(UNPACKED_BYTES - 100))]


def test_what_follows_the_last_record_is_passed_over() -> None:
    assert told(fetched(batch(PACK[ZSTD](GOOD + b"more"), 2, ZSTD))) == [(0, b"value"), (1, b"value")]


@pytest.mark.parametrize("data", [packed(NONE, GOOD, record(2, headers=NOT_UTF8)), UNREADABLE["no zstd"][0]])
def test_whoever_begins_within_a_batch_gets_the_rest_of_it(data: bytes) -> None:
    assert [each.offset for each in fetched(data, offset=1)] == [each.offset for each in fetched(data)][-1:]


def test_a_codec_that_is_not_known_ends_the_worker_for_the_batch_may_be_good() -> None:
    with pytest.raises(UnsupportedCodecError, match="codec 5"):
        fetched(batch(GOOD, 2, 5))


def test_a_batch_that_was_damaged_on_its_way_ends_the_worker_and_is_read_again() -> None:
    with pytest.raises(CorruptRecordException, match="CRC"):
        fetched(packed(NONE, GOOD)[:-1] + b"\1")


def test_a_batch_that_compaction_has_thinned_is_read_as_aiokafka_reads_it() -> None:
    assert told(fetched(batch(record(1) + record(4), 2, last=6))) == [(1, b"value"), (4, b"value")]


def test_a_batch_of_the_old_format_is_read_as_aiokafka_reads_it() -> None:
    builder = LegacyRecordBatchBuilder(1, GZIP, 1000)
    builder.append(0, TIME_MS, b"p", b"value")
    data = bytes(builder.build())

    assert fetched(data) == fetched(data, MemoryRecords)


def test_what_a_transaction_left_unfinished_is_not_read() -> None:
    marker = record(0, struct.pack(">hi", 0, 0), key=struct.pack(">hh", 0, 0))
    data = batch(record(0, b"half"), 1, TRANSACTIONAL, producer=7)
    data += batch(marker, 1, TRANSACTIONAL | CONTROL, at=1, producer=7)
    data += batch(record(0, b"whole"), 1, TRANSACTIONAL, at=2, producer=7)

    read = fetched(data, aborted_transactions=[(7, 0)], isolation_level=READ_COMMITTED)

    assert told(read) == [(2, b"whole")]


def test_a_part_of_a_batch_at_the_end_waits_for_the_next_fetch() -> None:
    data = packed(NONE, record(0)) + packed(NONE, record(0), at=1)[:-1]
    batches = Batches(data)

    assert told(fetched(data)) == [(0, b"value")]
    assert (batches.has_next(), batches.size_in_bytes()) == (True, len(data))
    assert batches.next_batch() is not None
    assert (batches.has_next(), batches.next_batch()) == (False, None)


def test_it_is_put_in_place_once_and_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher, "MemoryRecords", MemoryRecords)

    install()
    install()

    assert fetcher.MemoryRecords is Batches


def test_aiokafka_reads_as_it_did_when_this_was_written() -> None:
    """If this fails, read what has changed (of the Cython twins too), and then write the new hashes down."""
    known = {
        PartitionRecords: "94aa0da0dbec8d1b",
        Fetcher._proc_fetch_request: "59bf948fff47eed5",
        _MemoryRecordsPy: "795a0314fbca30af",
        _DefaultRecordBatchPy: "f63fbb5a8a247d54",
        decode_varint_py: "ce0ddca2bf4a9aa5",
        codec.snappy_decode: "c3451c6afa0b752e",
    }

    assert {each: sha256(inspect.getsource(each).encode()).hexdigest()[:16] for each in known} == known
