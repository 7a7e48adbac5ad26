"""Batches that Kafka lets in and aiokafka 0.14 cannot read: no record of them ends a worker.

Kafka asks little of what is written to it. A header's name need not be UTF-8, a record in a compressed batch may tell
a wrong length, the offsets in one that is not compressed may be any, what stands after the end of compressed data is
not looked at, and a few kilobytes may unpack to gigabytes. aiokafka raises at those in its fetcher (or believes the
offset, or takes the memory) before any code of ours has the record: in one owner of the partition, then in the next.

Here every batch is read by aiokafka's own reader. What that one cannot read, a slower one does, to which a name is
bytes. For what neither can, one record stands, with the bytes as they came. It has the batch's last offset: whoever
counts up to the end of the topic gets there. Which records those are, `undecodable` tells; they are to be rejected.
"""

import mmap
import struct
import zlib
from collections.abc import Callable, Iterator
from gzip import BadGzipFile, GzipFile
from io import BytesIO
from itertools import islice
from typing import Any

import cramjam
from aiokafka.codec import snappy_decode
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException, UnsupportedCodecError
from aiokafka.record.default_records import DefaultRecord, DefaultRecordBatch
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import decode_varint_py as varint  # the quick one reads past the end of what it is given

from streams.record import MESSAGE_BYTES, UNREADABLE, Headers

# What a batch may have unpacked: more than any client packs into one, and little enough for a worker to hold.
UNPACKED_BYTES = 16 * MESSAGE_BYTES

LENGTH = struct.Struct(">8xi")  # of a batch, from here on; before it is the base offset
COUNT = struct.Struct(">57xi")  # of the records, which follow
ATTRIBUTES, CODEC = 22, 0b111  # the byte of a batch in which the codec is told, and its bits

# What the readers and the codecs raise at bytes that are not as they should be. Nothing that the machine is to blame
# for, and not a codec that is unknown: then the batch is good, and the worker old.
FAULTS = (
    CorruptRecordException,
    cramjam.DecompressionError,
    zlib.error,
    BadGzipFile,
    struct.error,
    EOFError,
    IndexError,
    OverflowError,
    ValueError,
)


def install() -> None:
    """Have every consumer of this process read in this way.

    aiokafka has no hook for it: its fetcher finds `MemoryRecords` by a global of its module, which is set here.
    """
    fetcher.MemoryRecords = Batches


class Batches:
    """The batches of a fetched part of a log, as aiokafka's `MemoryRecords` gives them."""

    def __init__(self, data: bytes) -> None:
        self._upstream: Any = MemoryRecords(data)
        self._data = data
        self._at = 0

    def size_in_bytes(self) -> int:
        """The bytes of all, and of a part of one that may follow."""
        return int(self._upstream.size_in_bytes())

    def has_next(self) -> bool:
        """Whether there is another one, whole."""
        return bool(self._upstream.has_next())

    def next_batch(self) -> Any:
        """The next one; none if there is none.

        One that compaction has thinned comes as aiokafka gives it: nobody but us writes to a topic that is compacted.
        So does one in a format before 0.11, which has no headers, and which Kafka 4 lets nobody write.
        """
        batch = self._upstream.next_batch()
        if batch is None:
            return None
        start, self._at = self._at, self._at + LENGTH.size + LENGTH.unpack_from(self._data, self._at)[0]
        if not isinstance(batch, DefaultRecordBatch):
            return batch
        head: Any = batch
        # Kafka sees to it that a batch is written with one record for each offset.
        whole = COUNT.unpack_from(self._data, start)[0] == head.last_offset_delta + 1
        return Batch(head, memoryview(self._data)[start : self._at]) if whole else head


class Batch:
    """A batch that can be read to its end.

    head: aiokafka's, which answers for all but the records. wire: its bytes.
    """

    def __init__(self, head: Any, wire: memoryview) -> None:
        self._head = head
        self._wire = wire
        # What the fetcher asks for; `__getattr__` would cost more than all the rest here.
        self.base_offset, self.next_offset = head.base_offset, head.next_offset
        self.is_control_batch, self.is_transactional = head.is_control_batch, head.is_transactional
        self.producer_id, self.validate_crc = head.producer_id, head.validate_crc

    def __next__(self) -> Any:
        return next(self._head)  # the marker in a control batch, which nobody iterates over

    def __iter__(self) -> Iterator[Any]:
        first = at = self.base_offset
        try:
            plain = self._plain()
        except FAULTS as fault:
            yield self._rest(at, f"cannot be unpacked into {UNPACKED_BYTES} bytes: {fault!r}")
            return
        readers: tuple[Callable[[Any], Iterator[Any]], ...] = (DefaultRecordBatch, self._slowly)
        why = ""
        for reader in readers:
            try:
                for record in islice(reader(plain), at - first, None):
                    if record.offset != at:
                        raise CorruptRecordException(f"offset {record.offset} stands where {at} must be")
                    yield record
                    at += 1
                return
            except FAULTS as fault:
                why = f"cannot be read: {fault!r}"
        if at < self.next_offset:  # else it is only what follows the last record
            yield self._rest(at, why)

    def _plain(self) -> Any:
        """The batch with its records unpacked."""
        codec = self._head.compression_type
        if not codec:
            return self._wire
        plain = bytearray(self._wire[: COUNT.size])
        plain[ATTRIBUTES] &= ~CODEC
        plain += unpacked(codec, self._wire[COUNT.size :])
        return plain

    def _slowly(self, plain: Any) -> Iterator[Any]:
        """The records, whatever their headers are called: of a name, a byte that is not UTF-8 is a lone surrogate."""
        head = self._head
        at = COUNT.size
        for _ in range(head.last_offset_delta + 1):
            size, at = varint(plain, at)
            end = at + size
            delta_ms, at = varint(plain, at + 1)  # after the attributes: a byte, which aiokafka takes for a varint
            delta, at = varint(plain, at)
            key, at = field(plain, at)
            value, at = field(plain, at)
            count, at = varint(plain, at)
            headers: Headers = []
            for _ in range(count):
                name, at = field(plain, at)
                text, at = field(plain, at)
                headers.append(((name or b"").decode(errors="surrogateescape"), text))
            if at != end or end > len(plain):
                raise CorruptRecordException(f"a record is not of the {size} bytes that it tells")
            time_ms = head.max_timestamp if head.timestamp_type else head.first_timestamp + delta_ms
            yield DefaultRecord(head.base_offset + delta, time_ms, head.timestamp_type, key, value, headers)

    def _rest(self, at: int, why: str) -> Any:
        """The record that stands for those from an offset on: its value is the bytes of all records of the batch."""
        head, last = self._head, self.next_offset - 1
        text = f"the records at offsets {at} to {last} {why}".encode(errors="backslashreplace")
        value = bytes(self._wire[COUNT.size :])
        return DefaultRecord(last, head.max_timestamp, head.timestamp_type, None, value, [(UNREADABLE, text)])


def field(plain: Any, at: int) -> tuple[bytes | None, int]:
    """Bytes that follow their length, which is negative for none; and where they end."""
    size, at = varint(plain, at)
    return (None, at) if size < 0 else (bytes(plain[at : at + size]), at + size)


def unpacked(codec: int, packed: memoryview) -> bytes:
    """Bytes decompressed, at most `UNPACKED_BYTES` of them.

    Raises:
        UnsupportedCodecError: this codec is unknown.
        One of FAULTS: they are not of this codec, or too many.
    """
    if codec == DefaultRecordBatch.CODEC_GZIP:
        plain = GzipFile(fileobj=BytesIO(packed)).read(UNPACKED_BYTES + 1)
    elif codec == DefaultRecordBatch.CODEC_SNAPPY:
        plain = snappy_decode(packed.tobytes())  # bounded by itself: it cannot grow more than some twenty times
    elif codec in (DefaultRecordBatch.CODEC_LZ4, DefaultRecordBatch.CODEC_ZSTD):
        kind = cramjam.lz4 if codec == DefaultRecordBatch.CODEC_LZ4 else cramjam.zstd
        plain = into_room(kind.decompress_into, packed)
    else:
        raise UnsupportedCodecError(f"a batch is compressed with codec {codec}, which this version does not know")
    if len(plain) > UNPACKED_BYTES:
        raise ValueError("there are more")
    return plain


def into_room(decompress: Callable[[Any, Any], int], packed: memoryview) -> bytes:
    """What is decompressed into a buffer that is large enough, or as large as it may be."""
    try:
        small = bytearray(16 * len(packed))  # enough for most
        return bytes(memoryview(small)[: decompress(packed, small)])
    except cramjam.DecompressionError:
        with mmap.mmap(-1, UNPACKED_BYTES) as large:  # addresses; it takes memory where something is written
            return large[: decompress(packed, large)]
