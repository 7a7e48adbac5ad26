"""A medium: an image or one frame of a video, and how it is written on the wire and in a URL."""

from typing import Annotated

import msgspec
from msgspec import Meta

# Ids are the producers' own. No control characters and no slash, so that every id can stand in a URL and in a log; and
# neither `.` nor `..`, which a path does not keep. Said without `(?!`, which would not be the same everywhere.
PATTERN = r"\A(\.*[^./\x00-\x1f\x7f][^/\x00-\x1f\x7f]*|\.{3,})\Z"
Id = Annotated[str, Meta(min_length=1, max_length=200, pattern=PATTERN)]
FrameIndex = Annotated[int, Meta(ge=0, le=2**32 - 1)]
FrameCount = Annotated[int, Meta(ge=1, le=2**32 - 1)]


class Image(msgspec.Struct, frozen=True, tag_field="media_type", tag="image"):
    """An image."""

    media_id: Id

    def __str__(self) -> str:
        return f"image:{self.media_id}"


class VideoFrame(msgspec.Struct, frozen=True, tag_field="media_type", tag="video_frame"):
    """One frame of a video."""

    media_id: Id
    frame_index: FrameIndex

    def __str__(self) -> str:
        return f"frame:{self.media_id}:{self.frame_index}"


class Video(msgspec.Struct, frozen=True, tag_field="media_type", tag="video"):
    """A whole video; what is annotated and scored are its frames."""

    media_id: Id


Medium = Image | VideoFrame


def said(why: msgspec.ValidationError) -> str:
    """What is wrong, for people: an id is told in words.

    >>> try:
    ...     msgspec.convert("a/b", Id)
    ... except msgspec.ValidationError as why:
    ...     said(why)
    'Expected `str` without slashes and control characters, and neither . nor ..'
    """
    return str(why).replace(
        f"matching regex {PATTERN!r}", "without slashes and control characters, and neither . nor .."
    )


def medium(text: str) -> Medium:
    """The medium that a text names, as it stands in a URL.

    Raises:
        ValueError: it names none, and what it must be.

    >>> medium("frame:v1:30")
    VideoFrame(media_id='v1', frame_index=30)
    """
    kind, _, rest = text.partition(":")
    media_id, _, frame = rest.rpartition(":")
    told: dict[str, object] = {"media_type": "image", "media_id": rest}
    if kind == "frame" and frame.isascii() and frame.isdigit() and len(frame) <= len(str(2**32)):
        told = {"media_type": "video_frame", "media_id": media_id, "frame_index": int(frame)}
    elif kind != "image":
        raise ValueError(f"must be image:<id> or frame:<id>:<index>, not {text[:100]!r}")
    try:
        found: Medium = msgspec.convert(told, Medium)
    except msgspec.ValidationError as why:
        raise ValueError(f"must be image:<id> or frame:<id>:<index>: {said(why)}") from why
    return found
