"""The wire form of events: bytes in, a checked value out, or a sentence that says what is wrong."""

from typing import Any, Literal, cast

import msgspec
import orjson

from streams.errors import MalformedEvent
from streams.events import OF_TOPIC, Event, MediaUploaded, Upload, Uploads
from streams.media import FrameCount, Id, Image, Video, said
from streams.moves import came
from streams.record import RECORD_BYTES, Headers, Record, undecodable

UPLOAD_BYTES = 64 * 1024  # what is kept of one medium: it is a row of a table, and must fit into Kafka
FRAMES = 1_000_000  # of a video, one for each stride

JSON = "application/json"
MSGPACK = "application/msgpack"
SYNONYMS = {"application/x-msgpack": MSGPACK, "application/vnd.msgpack": MSGPACK}

Decoder = msgspec.json.Decoder[Any] | msgspec.msgpack.Decoder[Any]
DECODERS: dict[tuple[str, str], Decoder] = {
    **{(topic, JSON): msgspec.json.Decoder(kind) for topic, kind in OF_TOPIC.items()},
    **{(topic, MSGPACK): msgspec.msgpack.Decoder(kind) for topic, kind in OF_TOPIC.items()},
}
PLAIN: dict[str, Decoder] = {
    JSON: msgspec.json.Decoder(dict[str, Any]),
    MSGPACK: msgspec.msgpack.Decoder(dict[str, Any]),
}


def decode(record: Record, topic: str) -> Event:
    """The event that a record of a topic carries; members that nobody knows are ignored.

    The key must be the project id in UTF-8. A header `content-type` tells JSON (the default) from MessagePack; of
    several, the last counts.

    topic: its name without a prefix.

    Raises:
        MalformedEvent: the bytes are no event of this topic, too many, or about another project than the key.

    >>> value = b'{"workspace_id": "w", "project_id": "p", "timestamp": 1, "task_id": "t", "model_id": "m"}'
    >>> decode(Record("model_activations", 0, b"p", value, []), "model_activations").project_id
    'p'
    """
    unread = undecodable(record.headers)
    if unread is not None:
        raise MalformedEvent(unread, "unreadable")
    weight = came(record).weight()
    if weight > RECORD_BYTES:
        raise MalformedEvent(
            f"record must be at most {RECORD_BYTES} bytes before compression, not {weight}", "too_large"
        )
    if record.value is None:
        raise MalformedEvent("value must be an object, not empty: to delete something, publish the event that says so")
    media_type = media_type_of(record.headers)
    try:
        event = cast("Event", DECODERS[topic, media_type].decode(record.value))
        if isinstance(event, MediaUploaded):
            event = uploads(event, PLAIN[media_type].decode(record.value))
    except msgspec.ValidationError as why:
        raise MalformedEvent(f"value is no event of {topic} in {media_type}: {short(said(why))}") from why
    except (msgspec.MsgspecError, UnicodeDecodeError) as why:
        raise MalformedEvent(f"value is no event of {topic} in {media_type}: {short(str(why))}", "encoding") from why
    except RecursionError as why:
        raise MalformedEvent(
            f"value is no event of {topic} in {media_type}: it is nested too deep", "encoding"
        ) from why
    if record.key != event.project_id.encode():
        named = short(repr(event.project_id))
        raise MalformedEvent(f"project_id must be the record's key, {shown(record.key)}, not {named}", "key")
    return event


class MediaInformation(msgspec.Struct, frozen=True):
    """What clients read of a medium's form; the rest is kept as it is."""

    display_url: str | None = None
    height: int | None = None
    width: int | None = None
    size: int | None = None
    duration: int | None = None
    frame_count: int | None = None
    frame_stride: int | None = None
    frame_rate: float | None = None


class UploadedMedium(msgspec.Struct, frozen=True):
    """What we read of an upload; the rest is kept as it is."""

    media_type: Literal["image", "video"]
    media_id: Id
    frame_count: FrameCount | None = None
    frame_stride: FrameCount | None = None
    name: str | None = None
    upload_time: str | None = None
    media_information: MediaInformation | None = None
    thumbnail: str | None = None


def uploads(event: MediaUploaded, plain: dict[str, Any]) -> Uploads:
    """The media of an event of `media_uploads`.

    plain: the same event decoded without a type, so that nothing of its media is lost.
    """
    storage = event.dataset_storage_id
    if event.media is not None and "media_id" in plain:
        raise MalformedEvent("media must be a list of media, or media_id and media_type tell of one: either, not both")
    if event.media is not None:
        media = [upload(f"media[{i}]", storage, each) for i, each in enumerate(event.media)]
    else:
        of_the_event = {*Event.__struct_fields__, "media"}
        media = [upload("value", storage, {name: plain[name] for name in plain if name not in of_the_event})]
    return Uploads(
        workspace_id=event.workspace_id,
        project_id=event.project_id,
        timestamp=event.timestamp,
        dataset_storage_id=storage,
        uploads=media,
    )


def upload(where: str, storage: str, given: dict[str, Any]) -> Upload:
    """One medium of an upload."""
    try:
        told = msgspec.convert(given, UploadedMedium)
    except msgspec.ValidationError as why:
        raise MalformedEvent(f"{where}: {short(said(why))}") from why
    try:
        kept = msgspec.json.encode({**given, "dataset_storage_id": storage})
        # It is shown by orjson, some levels deep in an answer, which takes less than msgspec does.
        orjson.dumps([[[[[[[[orjson.loads(kept)]]]]]]]])
    except (TypeError, ValueError, RecursionError) as why:
        raise MalformedEvent(f"{where}: cannot be kept as JSON: {short(str(why))}") from why
    if len(kept) > UPLOAD_BYTES:
        raise MalformedEvent(f"{where} must be at most {UPLOAD_BYTES} bytes as JSON, not {len(kept)}", "too_large")
    if told.media_type == "image":
        return Upload(Image(told.media_id), 0, 1, kept)
    if told.frame_count is None:
        raise MalformedEvent(f"{where}.frame_count must be there for a video")
    stride = told.frame_stride or 1
    frames = -(-told.frame_count // stride)
    if frames > FRAMES:
        raise MalformedEvent(f"{where}.frame_count must make at most {FRAMES} frames, not {frames}: raise frame_stride")
    return Upload(Video(told.media_id), told.frame_count, stride, kept)


def media_type_of(headers: Headers) -> str:
    """Which of the decoders the headers ask for."""
    told = [text for name, text in headers if name.lower() == "content-type"] or [JSON.encode()]
    media_type = (told[-1] or b"").decode("latin-1").partition(";")[0].strip().lower()
    media_type = SYNONYMS.get(media_type, media_type)
    if media_type not in PLAIN:
        raise MalformedEvent(f"header content-type must be {JSON} or {MSGPACK}, not {media_type[:100]!r}", "encoding")
    return media_type


def shown(key: bytes | None) -> str:
    """A record's key for a message: short, and readable if it is text."""
    return "which is missing" if key is None else short(repr(key[:200].decode(errors="replace")))


def short(text: str) -> str:
    """A text for a message: of a long one, its head and its tail, for the field is named there.

    >>> len(short("x" * 10_000))
    203
    """
    return text if len(text) <= 200 else f"{text[:100]}...{text[-100:]}"
