"""The events: what each topic tells, as types whose annotations are the validation."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from streams.media import FrameIndex, Id, Image, Medium, Video, VideoFrame
from streams.tensors import ROWS, Column, Nested

# From 1970 to the end of the year 9999, in milliseconds.
Timestamp = Annotated[int, Meta(ge=0, le=253_402_300_799_999)]
State = Literal["none", "partially_annotated", "annotated", "to_revisit"]
Preset = Literal["balanced", "geti", "uncertainty", "random"]
Reduce = Literal["min", "mean", "max"]
SkipFor = Literal["me", "others", "good"]
Blind = Literal["lowest", "neutral", "highest"]
# What gives a utility: the built-in extractors, each a function of its name in agents/extractors.py, and what a
# producer computed itself, by the name that it gave it. The first that finds any tells which region's label counts.
EXTRACTORS = (
    "margin",
    "least_confidence",
    "entropy",
    "bald",
    "vote_entropy",
    "fre",
    "fre_class_agnostic",
    "novelty",
)
EXTERNAL = "external:"
Extractor = Annotated[
    str, Meta(max_length=220, pattern=rf"\A({'|'.join(EXTRACTORS)}|{EXTERNAL}[^\x00-\x1f\x7f/]{{1,200}})\Z")
]
Weight = Annotated[float, Meta(ge=1e-6, le=1_000_000)]
Shares = Annotated[dict[Id, Weight], Meta(min_length=1, max_length=1000)]
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

    @property
    def single_label(self) -> bool:
        """Whether each medium has one label: classification, not of several labels at once."""
        return self.task_type.lower() == "classification" and not self.multi_label


class TaskLearning(msgspec.Struct, frozen=True, kw_only=True):
    """How a task wants its media to be scored and chosen; what is not told is as the preset has it.

    extractors: those that count, instead of the preset's, each with its weight in a mean.
    intra_task_reduce: how their scores become the task's. stratify: whether each predicted label is ranked by itself.
    no_prediction: the score of media in which the model found nothing, among those of the others.
    diversify: whether a set is spread over the features. quotas: the shares of predicted labels that a set is to bring
    about. explore: the share of a set that is drawn by lot.
    """

    preset: Preset | None = None
    extractors: Annotated[dict[Extractor, Weight], Meta(min_length=1, max_length=20)] | None = None
    intra_task_reduce: Reduce = "mean"
    stratify: bool | None = None
    no_prediction: Blind = "neutral"
    diversify: bool | None = None
    quotas: Literal["uniform", "pool"] | Shares | None = None
    explore: Annotated[float, Meta(ge=0, le=1)] = 0.0


class ActiveLearning(msgspec.Struct, frozen=True, kw_only=True):
    """How a project wants its media to be chosen.

    inter_task_reduce: how the scores of its tasks become the project's. tasks: what differs in one, by its id.
    """

    preset: Preset = "balanced"
    inter_task_reduce: Reduce = "mean"
    tasks: Annotated[dict[Id, TaskLearning], Meta(max_length=100)] = {}


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


# What `media` holds is read in a second step, since all of it is kept (streams/decode.py); then it is `Uploads`.
class MediaUploaded(Event, frozen=True, kw_only=True):
    """Media exist: `media`, or the fields of one beside the event's own."""

    dataset_storage_id: Id
    media: Annotated[list[dict[str, Any]], Meta(max_length=ROWS)] | None = None


class Uploads(Event, frozen=True, kw_only=True):
    """The media of a `MediaUploaded`, each with all that was told of it."""

    dataset_storage_id: Id
    uploads: list[Upload]


class MediaDeleted(Event, frozen=True, kw_only=True):
    """Media are gone; a video takes its frames along. `media`, or the fields of one."""

    dataset_storage_id: Id
    media: Annotated[list[Image | Video], Meta(max_length=ROWS)] | None = None
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
    states: Annotated[dict[Id, State], Meta(max_length=100)]
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


# What the columns hold is checked by streams/artifacts.py.
class ArtifactsInferred(Event, frozen=True, kw_only=True):
    """A chunk of a batch inference, in columns of equal length.

    novelty: whether that utility is wanted, which costs more than the others.
    """

    dataset_storage_id: Id
    task_id: Id
    model_id: Id
    batch_id: Id
    subset: Literal["seen", "unseen"]
    chunk: Annotated[int, Meta(ge=0, lt=CHUNKS)]
    last: bool = False
    multi_label: bool = False
    novelty: bool = False
    no_prediction: Annotated[list[Medium], Meta(max_length=ROWS)] = []
    media: Annotated[list[Medium], Meta(max_length=ROWS)]
    labels: Annotated[list[Id | list[Id] | None], Meta(max_length=ROWS)] | None = None
    probabilities: Nested | None = None
    classes: list[Id] | None = None
    features: Nested | None = None
    utilities: Annotated[dict[Id, Column], Meta(max_length=8)] | None = None


class Chosen(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a medium is in a set.

    by: its `score`; that it stands for a cluster of the best (`diversity`), or of those without a score (`typicality`;
        those that stand for none follow, and have no size); by `chance`, in the fixed order of what is without a score;
        or by `lot`, drawn for this set.
    without_features: it would have been chosen for being unlike others, but no features are known.
    cluster_size: how many media it stands for. distance: from the middle of the cluster, or from its nearest neighbours
        there, in the mean, in units of the features.
    probability: with which it is in such a set, where some are by lot.
    """

    by: Literal["score", "diversity", "typicality", "chance", "lot"]
    without_features: bool = False
    cluster_size: Annotated[int, Meta(ge=0)] = 0
    distance: float | None = None
    probability: Annotated[float, Meta(ge=0, le=1)] | None = None


class Pick(msgspec.Struct, frozen=True, kw_only=True):
    """A medium that was chosen, with its place, and why.

    uploaded_at: which of its uploads the grant is of, when the event happened if none is told. A deletion that is not
        older ends it; grants of an earlier upload count no more.
    """

    medium: Medium
    rank: Annotated[int, Meta(ge=1)]
    score: float
    uploaded_at: Timestamp | None = None
    choice: Chosen | None = None


class Granted(Event, frozen=True, kw_only=True, tag_field="change", tag="granted"):
    """Media were chosen for somebody, best first; who asked first keeps them. Without an end unless one is told.

    With an end it is a lease, named by its request: one that comes twice is granted nothing more. Only if nothing was
    granted to it may it be tried again, as the next attempt.
    """

    request_id: Id
    task_id: Id | None = None
    user_id: Id | None = None
    media: Annotated[list[Pick], Meta(max_length=1000)]
    expires_at: Timestamp | None = None
    attempt: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


class Renewed(Event, frozen=True, kw_only=True, tag_field="change", tag="renewed"):
    """A lease, named by the request that it was granted to, ends at another time."""

    request_id: Id
    user_id: Id
    expires_at: Timestamp


class Released(Event, frozen=True, kw_only=True, tag_field="change", tag="released"):
    """A lease is over before its time: what is left of it is for others."""

    request_id: Id
    user_id: Id


class Passed(msgspec.Struct, frozen=True, kw_only=True):
    """A medium that is not to be annotated now. uploaded_at: which of its uploads."""

    medium: Medium
    uploaded_at: Timestamp


class Skipped(Event, frozen=True, kw_only=True, tag_field="change", tag="skipped"):
    """Who has a lease gives media of it back without having annotated them, and says whom they may be given to again.

    skip_for: `me`: to others only; `others`: to this user only; `good`: to nobody.
    """

    request_id: Id
    user_id: Id
    media: Annotated[list[Passed], Meta(min_length=1, max_length=1000)]
    skip_for: SkipFor


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
    "active_set_events": Granted | Renewed | Released | Skipped | Reset,
}
