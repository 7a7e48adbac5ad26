"""Keys and values of the one table: how each kind of row is written as bytes.

A key is the project's id with its length before it, a byte for the kind, then what the kind needs, so that a project is
one range in which every kind is one range. Ids stand in keys as 64-bit hashes: of a million ids two are equal with a
chance of 1 in 37 million.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from hashlib import blake2b
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from streams.errors import MalformedEvent
from streams.events import State
from streams.media import Image, Medium, Video

Change = tuple[bytes, bytes | None]  # a key and its new value; None deletes the row
Grants = NDArray[np.void]

HASH_BYTES = 8
MEDIUM_BYTES = 12
NO_FRAME = bytes(4)  # of an image
BEHIND = 64  # more bytes than follow a head in any key (`heads`)


class Kind(IntEnum):
    """The kinds of rows; each is written by the events of one topic. The numbers are in every key: they stay."""

    PROGRESS = 0
    PROJECT = 1
    UPLOAD = 2
    REMOVAL = 3
    STATE = 4
    ACTIVATION = 5
    SCORE = 6
    REFERENCE = 7
    BATCH = 8
    GRANT = 9
    RESET = 10
    NAME = 11
    LAST_REMOVAL = 12
    SWEEP = 13
    LEASE = 14
    LEASE_END = 15
    SKIP = 16
    LABEL = 17


class Rows(Protocol):
    """The rows of one partition, to read."""

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of some keys; None where there is no row."""
        ...

    def scan(self, prefix: bytes, after: bytes = b"") -> Iterable[tuple[bytes, bytes]]:
        """All rows whose keys start with a prefix, in order of their keys, from a key on."""
        ...


def prefix_of(project: str, kind: Kind | None = None) -> bytes:
    r"""What the keys of a project begin with, or those of one kind of its rows.

    >>> prefix_of("p1", Kind.GRANT)
    b'\x00\x02p1\t'
    """
    name = project.encode()
    return len(name).to_bytes(2, "big") + name + (b"" if kind is None else bytes([kind]))


def range_of(key: bytes) -> bytes:
    """Project and kind of a key, as it begins with them."""
    return key[: 3 + int.from_bytes(key[:2], "big")]


def project_of(key: bytes) -> str:
    """The project that a key belongs to.

    >>> project_of(prefix_of("p1", Kind.GRANT) + b"rest")
    'p1'
    """
    return key[2 : 2 + int.from_bytes(key[:2], "big")].decode()


def progress_key(topic: str) -> bytes:
    """The key of a source topic's progress row, which belongs to no project."""
    return prefix_of("", Kind.PROGRESS) + topic.encode()


def heads(rows: Rows, prefix: bytes, more: int) -> Iterator[bytes]:
    """What keys begin with, prefix and so many bytes more: each once, by a look at the first of its rows."""
    after = prefix
    while found := next(iter(rows.scan(prefix, after)), None):
        head = found[0][: len(prefix) + more]
        yield head
        after = head + b"\xff" * BEHIND


def sweep_of(project: str, offset: int | None = None) -> bytes:
    """The key of a row that tells what is to be swept: a whole project, or media that a record said are deleted.

    Of media, the value has nine bytes for each: `whole_bytes`, and whether it is a video.
    """
    return SWEEPS + prefix_of(project) + (b"" if offset is None else offset.to_bytes(8, "big"))


def moved_name(topic: str, partition: int) -> str:
    """Whose progress row tells how far the records are that a topic had moved here from a wrong partition.

    No topic of Kafka has such a name.
    """
    return f"{topic}<{partition}"


KEPT = "<"  # whose progress row is written when nothing else is; no topic has such a name
SWEEPS = prefix_of("", Kind.SWEEP)  # what their keys begin with


def hashed(text: str) -> bytes:
    """The 8 bytes that stand for an id."""
    return blake2b(text.encode(), digest_size=HASH_BYTES).digest()


def number_of(text: str | None) -> int:
    """The same as a number, as it stands in fixed-width rows; 0 for none."""
    return 0 if text is None else int.from_bytes(hashed(text), "little")


def medium_bytes(medium: Medium | Video) -> bytes:
    """The 12 bytes that stand for a medium: a hash of the image or video, and the frame. A video is its frame 0."""
    if isinstance(medium, Image):  # without `hashed`: there are many
        return blake2b(b"image:" + medium.media_id.encode(), digest_size=HASH_BYTES).digest() + NO_FRAME
    frame = 0 if isinstance(medium, Video) else medium.frame_index
    return hashed(f"video:{medium.media_id}") + frame.to_bytes(4, "big")


def whole_bytes(medium: Image | Video) -> bytes:
    """The 8 bytes that stand for an image, or a video with all its frames."""
    return medium_bytes(medium)[:HASH_BYTES]


# Fixed-width rows, so that all of a project decode as one array.
STATES: tuple[State, ...] = ("none", "partially_annotated", "annotated", "to_revisit")
STATE = np.dtype([("at", "<i8"), ("state", "u1"), ("user", "<u8")])
# `uploaded_at`: which of the medium's uploads it is of, when it was granted if that was not `told`; no clock tells
# whether that is what the medium is now.
GRANT = np.dtype([("offset", "<i8"), ("uploaded_at", "<i8"), ("told", "?"), ("until", "<i8"), ("holder", "<u8")])
LABEL = np.dtype([("at", "<i8"), ("label", "<u8")])  # that a person gave a medium in a task
SKIP = np.dtype([("uploaded_at", "<i8"), ("whom", "u1")])  # of a medium and a user
SKIPS = ("me", "others", "good")  # whom: whose that medium is no more
FOREVER = int(np.iinfo(np.int64).max)  # a grant without an end
# Utilities of a batch that its producer computed itself, at most; which is which stands in the batch's row.
EXTERNALS = 8


def live(grants: Grants, reset: int, now: int) -> NDArray[np.bool_]:
    """Which grants hold: not run out, and if they have no end, not swept away by a later reset.

    reset: the offset of the last one, -1 if there was none.
    now: milliseconds since the epoch.
    """
    endless = grants["until"] == FOREVER
    alive: NDArray[np.bool_] = np.where(endless, grants["offset"] > reset, grants["until"] > now)
    return alive


class UploadRow(NamedTuple):
    """A medium that exists, and all that was told of it (JSON). An image has no frames; a video's are implied.

    storage: the hash of the dataset storage that it is in.
    """

    at: int
    frame_count: int
    frame_stride: int
    storage: int
    told: bytes

    def pack(self) -> bytes:
        """The row's value."""
        return UPLOAD_HEAD.pack(self.at, self.frame_count, self.frame_stride, self.storage) + self.told

    @classmethod
    def unpack(cls, value: bytes) -> Self:
        """The row of a value."""
        at, frame_count, frame_stride, storage = UPLOAD_HEAD.unpack_from(value)
        return cls(at, frame_count, frame_stride, storage, value[UPLOAD_HEAD.size :])


UPLOAD_HEAD = struct.Struct("<qIIQ")
UPLOAD = np.dtype([("at", "<i8"), ("frame_count", "<u4"), ("frame_stride", "<u4"), ("storage", "<u8")])  # the same


class BatchRow(NamedTuple):
    """What has come of a batch.

    heard_at: when Kafka had the chunk that came last.
    chunks: how many it has; -1: not told yet. here: which have come, a bit for each.
    width: how long its features are; 0: none have come.
    names: hashes of its external utilities, in the order of their columns.
    """

    heard_at: int
    chunks: int = -1
    here: int = 0
    width: int = 0
    names: tuple[int, ...] = ()

    def pack(self) -> bytes:
        """The row's value."""
        head = BATCH_HEAD.pack(self.heard_at, self.chunks, self.width, len(self.names))
        names = b"".join(name.to_bytes(HASH_BYTES, "little") for name in self.names)
        return head + names + self.here.to_bytes((self.here.bit_length() + 7) // 8, "little")

    @classmethod
    def unpack(cls, value: bytes) -> Self:
        """The row of a value."""
        heard_at, chunks, width, count = BATCH_HEAD.unpack_from(value)
        bits = BATCH_HEAD.size + count * HASH_BYTES
        names = np.frombuffer(value[BATCH_HEAD.size : bits], "<u8").tolist()
        return cls(heard_at, chunks, int.from_bytes(value[bits:], "little"), width, tuple(names))

    def with_chunk(self, heard_at: int, chunk: int, *, last: bool, width: int, names: Iterable[int]) -> Self:
        """The row when one more chunk has come.

        Raises:
            MalformedEvent: its features are of another length than those of the batch, or its external utilities are
                too many.
        """
        if width and self.width and width != self.width:
            raise MalformedEvent(
                f"features must have {self.width} columns, as others of their batch, not {width}", "columns"
            )
        every = (*self.names, *sorted(set(names) - {*self.names}))
        if len(every) > EXTERNALS:
            raise MalformedEvent(f"utilities must be at most {EXTERNALS} in a batch, not {len(every)}", "columns")
        return self._replace(
            heard_at=max(self.heard_at, heard_at),
            chunks=chunk + 1 if last else self.chunks,
            here=self.here | 1 << chunk,
            width=width or self.width,
            names=every,
        )

    @property
    def complete(self) -> bool:
        """Whether all its chunks are here."""
        whole = (1 << max(self.chunks, 0)) - 1
        return self.chunks >= 0 and self.here & whole == whole


BATCH_HEAD = struct.Struct("<qiIB")


class ActivationRow(NamedTuple):
    """The active model of a task, and since when."""

    at: int
    model_id: str

    def pack(self) -> bytes:
        """The row's value."""
        return pack_int(self.at) + self.model_id.encode()

    @classmethod
    def unpack(cls, value: bytes) -> Self:
        """The row of a value."""
        return cls(unpack_int(value), value[8:].decode())


def pack_int(number: int) -> bytes:
    """A value, or the head of one, that is a whole number: a time, or an offset."""
    return number.to_bytes(8, "little", signed=True)


def unpack_int(value: bytes) -> int:
    """The number at the head of a value."""
    return int.from_bytes(value[:8], "little", signed=True)
