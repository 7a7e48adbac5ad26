"""The events: what each topic tells, as types whose annotations are the validation, and their wire form."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

import msgspec
import orjson
from msgspec import Meta

from streams.errors import MalformedEvent
from streams.media import FrameCount, FrameIndex, Id, Image, Medium, Video, VideoFrame
from streams.record import RECORD_BYTES, Headers, Record
from streams.tensors import ROWS, Column, Nested

# From 1970 to the end of the year 9999, in milliseconds.
Timestamp = Annotated[int, Meta(ge=0, le=253_402_300_799_999)]
State = Literal["none", "partially_annotated", "annotated", "to_revisit"]
Preset = Literal["balanced", "random"]
UPLOAD_BYTES = 64 * 1024  # what is kept of one medium: it is a row of a table, and must fit into Kafka
FRAMES = 1_000_000  # of a video, one for each stride
CHUNKS = 1_000_000


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What every event tells: whose it is, and when it happened (milliseconds since the epoch, UTC)."""

    workspace_id: Id
    project_id: Id
    timestamp: Timestamp


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """A label of a task."""

    id: Id
    name: str = ""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a project's pipeline; one that cannot be trained (a crop) has no active set."""

    task_id: Id
    title: str = ""
    task_type: str = ""
    trainable: bool = True
    multi_label: bool = False
    labels: list[Label] = []


class ActiveLearning(msgspec.Struct, frozen=True, kw_only=True):
    """How a project wants its media to be chosen."""

    preset: Preset = "balanced"


class ProjectUpdated(Event, frozen=True, kw_only=True):
    """A project as it is from now on, whole; tasks in pipeline order."""

    dataset_storage_id: Id
    name: str = ""
    tasks: Annotated[list[Task], Meta(max_length=100)] = []
    active_learning: ActiveLearning = ActiveLearning()

    def __post_init__(self) -> None:
        ids = [task.task_id for task in self.tasks]
        for twice in {each for each in ids if ids.count(each) > 1}:
            raise ValueError(f"tasks must have a task_id each of its own: {twice!r} is there twice")


class ProjectDeleted(Event, frozen=True, kw_only=True):
    """A project is gone, with all that it had."""


class Upload(msgspec.Struct, frozen=True):
    """A medium that exists: an image, or a video with one medium for every `frame_stride` frames.

    told: all that the upload said of it, as JSON.
    """

    medium: Image | Video
    frame_count: int
    frame_stride: int
    told: bytes


class MediaUploaded(Event, frozen=True, kw_only=True):
    """Media exist: `media`, or the fields of one beside the event's own. Decoded, it is `Uploads`."""

    dataset_storage_id: Id
    media: Annotated[list[dict[str, Any]], Meta(max_length=ROWS)] | None = None


class Uploads(Event, frozen=True, kw_only=True):
    """The media of a `MediaUploaded`, each with all that was told of it."""

    uploads: list[Upload]


class MediaDeleted(Event, frozen=True, kw_only=True):
    """Media are gone; a video takes its frames along. `media`, or the fields of one."""

    dataset_storage_id: Id
    media: list[Image | Video] | None = None
    media_type: Literal["image", "video"] = "image"
    media_id: Id | None = None

    def __post_init__(self) -> None:
        if (self.media is None) == (self.media_id is None):
            raise ValueError("media must be a list of media, or media_id and media_type tell of one: either, not both")

    def which(self) -> list[Image | Video]:
        """The media that are gone."""
        if self.media_id is None:
            return self.media or []
        return [Image(self.media_id) if self.media_type == "image" else Video(self.media_id)]


class AnnotationUpdated(Event, frozen=True, kw_only=True):
    """A person annotated a medium, or undid it: its state in each task that is named."""

    media_id: Id
    media_type: Literal["image", "video_frame"] = "image"
    frame_index: FrameIndex | None = None
    states: dict[Id, State]
    user_id: Id | None = None

    def __post_init__(self) -> None:
        if (self.media_type == "video_frame") != (self.frame_index is not None):
            raise ValueError("frame_index must be there for a video_frame, and not for an image")

    @property
    def medium(self) -> Medium:
        """The medium that was annotated."""
        return Image(self.media_id) if self.frame_index is None else VideoFrame(self.media_id, self.frame_index)


class ModelActivated(Event, frozen=True, kw_only=True):
    """A model became the active one of its task: its scores come first."""

    task_id: Id
    model_id: Id


class ArtifactsInferred(Event, frozen=True, kw_only=True):
    """A chunk of a batch inference, in columns of equal length; streams/artifacts.py checks what they hold."""

    dataset_storage_id: Id
    task_id: Id
    model_id: Id
    batch_id: Id
    subset: Literal["seen", "unseen"]
    chunk: Annotated[int, Meta(ge=0, lt=CHUNKS)]
    last: bool = False
    multi_label: bool = False
    no_prediction: Annotated[list[Medium], Meta(max_length=ROWS)] = []
    media: Annotated[list[Medium], Meta(max_length=ROWS)]
    labels: Annotated[list[Id | list[Id] | None], Meta(max_length=ROWS)] | None = None
    probabilities: Nested | None = None
    classes: list[Id] | None = None
    features: Nested | None = None
    utilities: Annotated[dict[Id, Column], Meta(max_length=8)] | None = None


class Pick(msgspec.Struct, frozen=True, kw_only=True):
    """A medium that was chosen, with its place."""

    medium: Medium
    rank: Annotated[int, Meta(ge=1)]
    score: float


class Granted(Event, frozen=True, kw_only=True, tag_field="change", tag="granted"):
    """Media were chosen for somebody, best first; who asked first keeps them. Without an end unless one is told."""

    request_id: Id
    task_id: Id | None = None
    user_id: Id | None = None
    media: Annotated[list[Pick], Meta(max_length=1000)]
    expires_at: Timestamp | None = None


class Reset(Event, frozen=True, kw_only=True, tag_field="change", tag="reset"):
    """Nothing was left to suggest: what was granted without an end before this counts no more."""

    request_id: Id


OF_TOPIC: Mapping[str, Any] = {
    "project_updates": ProjectUpdated,
    "project_deletions": ProjectDeleted,
    "media_uploads": MediaUploaded,
    "media_deletions": MediaDeleted,
    "annotation_updates": AnnotationUpdated,
    "model_activations": ModelActivated,
    "inference_artifacts": ArtifactsInferred,
    "active_set_events": Granted | Reset,
}

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
    weight = record.weight()
    if weight > RECORD_BYTES:
        raise MalformedEvent(f"record must be at most {RECORD_BYTES} bytes before compression, not {weight}")
    if record.value is None:
        raise MalformedEvent("value must be an object, not empty: to delete something, publish the event that says so")
    media_type = media_type_of(record.headers)
    try:
        event = cast("Event", DECODERS[topic, media_type].decode(record.value))
        if isinstance(event, MediaUploaded):
            event = uploads(event, PLAIN[media_type].decode(record.value))
    except (msgspec.MsgspecError, UnicodeDecodeError) as why:
        raise MalformedEvent(f"value is no event of {topic} in {media_type}: {short(str(why))}") from why
    except RecursionError as why:
        raise MalformedEvent(f"value is no event of {topic} in {media_type}: it is nested too deep") from why
    if record.key != event.project_id.encode():
        named = short(repr(event.project_id))
        raise MalformedEvent(f"project_id must be the record's key, {shown(record.key)}, not {named}")
    return event


class Told(msgspec.Struct, frozen=True):
    """What we read of an upload; the rest is kept as it is."""

    media_type: Literal["image", "video"]
    media_id: Id
    frame_count: FrameCount | None = None
    frame_stride: FrameCount = 1
    name: str | None = None
    media_information: dict[str, Any] | None = None
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
        workspace_id=event.workspace_id, project_id=event.project_id, timestamp=event.timestamp, uploads=media
    )


def upload(where: str, storage: str, given: dict[str, Any]) -> Upload:
    """One medium of an upload."""
    try:
        told = msgspec.convert(given, Told)
    except msgspec.ValidationError as why:
        raise MalformedEvent(f"{where}: {short(str(why))}") from why
    try:
        kept = msgspec.json.encode({**given, "dataset_storage_id": storage})
        # It is shown by orjson, some levels deep in an answer, which takes less than msgspec does.
        orjson.dumps([[[[[[[[orjson.loads(kept)]]]]]]]])
    except (TypeError, ValueError, RecursionError) as why:
        raise MalformedEvent(f"{where}: cannot be kept as JSON: {short(str(why))}") from why
    if len(kept) > UPLOAD_BYTES:
        raise MalformedEvent(f"{where} must be at most {UPLOAD_BYTES} bytes as JSON, not {len(kept)}")
    if told.media_type == "image":
        return Upload(Image(told.media_id), 0, 1, kept)
    if told.frame_count is None:
        raise MalformedEvent(f"{where}.frame_count must be there for a video")
    frames = -(-told.frame_count // told.frame_stride)
    if frames > FRAMES:
        raise MalformedEvent(f"{where}.frame_count must make at most {FRAMES} frames, not {frames}: raise frame_stride")
    return Upload(Video(told.media_id), told.frame_count, told.frame_stride, kept)


def media_type_of(headers: Headers) -> str:
    """Which of the decoders the headers ask for."""
    told = [text for name, text in headers if name.lower() == "content-type"] or [JSON.encode()]
    media_type = (told[-1] or b"").decode("latin-1").partition(";")[0].strip().lower()
    media_type = SYNONYMS.get(media_type, media_type)
    if media_type not in PLAIN:
        raise MalformedEvent(f"header content-type must be {JSON} or {MSGPACK}, not {media_type[:100]!r}")
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
