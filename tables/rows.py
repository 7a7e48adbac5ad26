"""Keys and values of the one table: how each kind of row is written as bytes.

A key is the project's id with its length before it, a byte for the kind, then what the kind needs, so that a project is
one range in which every kind is one range. Ids stand in keys as 64-bit hashes: of a million ids two are equal with a
chance of 1 in 37 million.
"""

import struct
from collections.abc import Iterable, Sequence
from enum import IntEnum
from hashlib import blake2b
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from streams.media import Image, Medium, Video

Change = tuple[bytes, bytes | None]  # a key and its new value; None deletes the row
Grants = NDArray[np.void]

HASH_BYTES = 8
MEDIUM_BYTES = 12


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


class Rows(Protocol):
    """The rows of one partition, to read."""

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of some keys; None where there is no row."""
        ...

    def scan(self, prefix: bytes) -> Iterable[tuple[bytes, bytes]]:
        """All rows whose keys start with a prefix, in order of their keys."""
        ...


def prefix_of(project: str, kind: Kind | None = None) -> bytes:
    r"""What the keys of a project begin with, or those of one kind of its rows.

    >>> prefix_of("p1", Kind.GRANT)
    b'\x00\x02p1\t'
    """
    name = project.encode()
    return len(name).to_bytes(2, "big") + name + (b"" if kind is None else bytes([kind]))


def project_of(key: bytes) -> str:
    """The project that a key belongs to.

    >>> project_of(prefix_of("p1", Kind.GRANT) + b"rest")
    'p1'
    """
    return key[2 : 2 + int.from_bytes(key[:2], "big")].decode()


def progress_key(topic: str) -> bytes:
    """The key of a source topic's progress row, which belongs to no project."""
    return prefix_of("", Kind.PROGRESS) + topic.encode()


def moved_name(topic: str, partition: int) -> str:
    """Whose progress row tells how far the records are that a topic had moved here from a wrong partition.

    No topic of Kafka has such a name.
    """
    return f"{topic}<{partition}"


def hashed(text: str) -> bytes:
    """The 8 bytes that stand for an id."""
    return blake2b(text.encode(), digest_size=HASH_BYTES).digest()


def number_of(text: str | None) -> int:
    """The same as a number, as it stands in fixed-width rows; 0 for none."""
    return 0 if text is None else int.from_bytes(hashed(text), "little")


def medium_bytes(medium: Medium | Video) -> bytes:
    """The 12 bytes that stand for a medium: a hash of the image or video, and the frame. A video is its frame 0."""
    if isinstance(medium, Image):
        return hashed(f"image:{medium.media_id}") + bytes(4)
    frame = 0 if isinstance(medium, Video) else medium.frame_index
    return hashed(f"video:{medium.media_id}") + frame.to_bytes(4, "big")


def whole_bytes(medium: Image | Video) -> bytes:
    """The 8 bytes that stand for an image, or a video with all its frames."""
    return medium_bytes(medium)[:HASH_BYTES]


# Fixed-width rows, so that all of a project decode as one array.
STATES = ("none", "partially_annotated", "annotated", "to_revisit")
STATE = np.dtype([("at", "<i8"), ("state", "u1"), ("user", "<u8")])
# `uploaded_at`: which of the medium's uploads it is of; no clock tells whether that is what the medium is now.
GRANT = np.dtype([("offset", "<i8"), ("uploaded_at", "<i8"), ("until", "<i8"), ("holder", "<u8")])
FOREVER = int(np.iinfo(np.int64).max)  # a grant without an end
# The utilities that artifacts allow, whichever count when ranking; NaN where there is none.
UTILITIES = ("margin", "fre_class_agnostic")
IDS = ("model", "batch", "label")  # as hashes; 0 for none
SLOT = np.dtype([*((name, "<u8") for name in IDS), ("at", "<i8"), *((name, "<f4") for name in UTILITIES)])
# Of two batches that count, and of one that is coming and must not destroy them.
SLOTS = 3
SCORE = np.dtype((SLOT, (SLOTS,)))
EMPTY = np.array((0, 0, 0, -1, *(np.nan for _ in UTILITIES)), SLOT)


def live(grants: Grants, reset: int, now: int) -> NDArray[np.bool_]:
    """Which grants hold: not run out, and if they have no end, not swept away by a later reset.

    reset: the offset of the last one, -1 if there was none.
    now: milliseconds since the epoch.
    """
    endless = grants["until"] == FOREVER
    alive: NDArray[np.bool_] = np.where(endless, grants["offset"] > reset, grants["until"] > now)
    return alive


class UploadRow(NamedTuple):
    """A medium that exists, and all that was told of it (JSON). An image has no frames; a video's are implied."""

    at: int
    frame_count: int
    frame_stride: int
    told: bytes

    def pack(self) -> bytes:
        """The row's value."""
        return UPLOAD_HEAD.pack(self.at, self.frame_count, self.frame_stride) + self.told

    @classmethod
    def unpack(cls, value: bytes) -> Self:
        """The row of a value."""
        at, frame_count, frame_stride = UPLOAD_HEAD.unpack_from(value)
        return cls(at, frame_count, frame_stride, value[UPLOAD_HEAD.size :])


UPLOAD_HEAD = struct.Struct("<qII")


class BatchRow(NamedTuple):
    """What has come of a batch: when, how many chunks it has (-1: not told yet), and which are here, a bit for each."""

    at: int
    chunks: int
    here: int

    def pack(self) -> bytes:
        """The row's value."""
        bits = self.here.to_bytes((self.here.bit_length() + 7) // 8, "little")
        return BATCH_HEAD.pack(self.at, self.chunks) + bits

    @classmethod
    def unpack(cls, value: bytes) -> Self:
        """The row of a value."""
        at, chunks = BATCH_HEAD.unpack_from(value)
        return cls(at, chunks, int.from_bytes(value[BATCH_HEAD.size :], "little"))

    @property
    def complete(self) -> bool:
        """Whether all its chunks are here."""
        whole = (1 << max(self.chunks, 0)) - 1
        return self.chunks >= 0 and self.here & whole == whole


BATCH_HEAD = struct.Struct("<qi")


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
