"""A medium: an image or one frame of a video, and how it is written on the wire and in a URL."""

from typing import Annotated

import msgspec
from msgspec import Meta

# Ids are the producers' own. No control characters and no slash, so that every id can stand in a URL and in a log.
Id = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"\A[^\x00-\x1f\x7f/]+\Z")]
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
