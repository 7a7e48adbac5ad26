"""What is answered, as types: mypy holds the code to them, and `/openapi.json` is made from them.

They are dictionaries, not structs: an item has besides all that its upload told.
"""

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

from streams.events import Chosen, State
from streams.media import Id, Medium
from tables.made import Reason
from tables.order import Tier
from tables.overview import Histogram, MediaCounts

Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
AsOf = Annotated[dict[str, int], Meta(description="up to which offset of each topic the answer is true")]
Lag = Annotated[dict[str, int], Meta(description="how many records of each topic wait in Kafka; of none, no topic")]
Rank = Annotated[int, Meta(ge=1)]


class OrderTold(TypedDict):
    """Whether the order that is answered from knows all that is applied, and if not, when it was begun to be made.

    Of a project of more than 50,000 media it may be a little older, while the next one is made; `as_of` is of it. What
    was annotated, deleted, given away or skipped since is in no answer.
    """

    current: bool
    made_at: NotRequired[Time]


class TaskState(TypedDict):
    """The annotation state of a medium in a task."""

    task_id: Id
    state: State


class Why(TypedDict):
    """Where a medium stands, and why; and why it is in the set, unless that was decided before."""

    score: float
    rank: Rank
    tier: Tier
    reasons: list[Reason]
    choice: Chosen | None


class FrameWhy(Why):
    """Where a frame stands, and why."""

    frame_index: int


class ItemWhy(Why):
    """Where the medium stands, and why; of a video, where the best of its frames does, and each of them."""

    frames: NotRequired[list[FrameWhy]]


class Information(TypedDict):
    """The form of a medium; what an upload did not tell is empty or 0."""

    display_url: str
    height: int
    width: int
    duration: NotRequired[int]
    frame_count: NotRequired[int]
    frame_stride: NotRequired[int]
    frame_rate: NotRequired[float]


class Item(TypedDict):
    """An image, or a video with the frames that were chosen; with all that its upload told besides."""

    id: Id
    dataset_id: Id
    name: str
    type: Literal["image", "video"]
    upload_time: str
    media_information: Information
    thumbnail: str
    annotation_state_per_task: list[TaskState]
    active_learning: ItemWhy
    active_frames: NotRequired[list[int]]


class ActiveSet(TypedDict):
    """Media to annotate now, the best first; of none, why."""

    active_set: list[Item]
    as_of: AsOf
    lag: Lag
    order: OrderTold
    reason: NotRequired[str]


class Lease(TypedDict):
    """Media that a user has until a time: what of them is neither annotated nor given back."""

    id: Id
    user_id: Id | None
    task_id: Id | None
    expires_at: Time
    media: list[Medium]


class NewLease(ActiveSet):
    """A lease and its media; none if there are none."""

    lease: Lease | None


class ChangedLease(TypedDict):
    """A lease as it is now."""

    lease: Lease
    as_of: AsOf
    lag: Lag


class MediumTold(TypedDict):
    """A medium: whether it may be had, its rank by score if it may, and why.

    state: `annotated` in all tasks, or in the one that was asked for; `begun` if it is not, and was worked on so far
        that nobody is given it. choice: why it is in the safe active set of 100; none if it is not.
    """

    medium: Medium
    state: Literal["available", "held", "skipped", "annotated", "begun"]
    held_until: Time | None
    rank: Rank | None
    score: float
    tier: Tier
    reasons: list[Reason]
    choice: Chosen | None
    annotation_state_per_task: list[TaskState]
    as_of: AsOf
    lag: Lag
    order: OrderTold


class LabelCount(TypedDict):
    """How many media have a label; of none, how many it was not told for."""

    label: str | None
    media: int


class Labels(TypedDict):
    """How labels lie, the most frequent first: those that people gave, as seen rows tell, else the predicted ones."""

    pool: list[LabelCount]
    annotated: list[LabelCount]


class Batches(TypedDict):
    """Batch inferences of a task, of which all chunks are there, and of which some are missing."""

    complete: int
    coming: int


class TaskTold(TypedDict):
    """A task; more of one that can be trained, once it is in the order of its project."""

    task_id: Id
    title: str
    task_type: str
    trainable: bool
    states: NotRequired[dict[State, int]]
    tiers: NotRequired[dict[Tier, int]]
    coverage: NotRequired[float | None]
    scores: NotRequired[Histogram]
    labels: NotRequired[Labels]
    scored_at: NotRequired[Time | None]
    active_model: NotRequired[Id | None]
    batches: NotRequired[Batches]


class ProjectTold(TypedDict):
    """A project at a glance."""

    project_id: Id
    workspace_id: Id
    name: str
    dataset_storage_id: Id
    media: MediaCounts
    tasks: list[TaskTold]
    as_of: AsOf
    lag: Lag
    order: OrderTold


ProductInfo = TypedDict("ProductInfo", {"product-version": str})
"""Which version of Geti's client is served."""


class Organization(TypedDict):
    """An organization of Geti."""

    organizationId: Id


class Live(TypedDict):
    """The process is worth keeping."""

    status: Literal["live"]


class Ready(TypedDict):
    """The worker answers for these partitions."""

    status: Literal["ready"]
    partitions: list[int]


class Problem(TypedDict):
    """What went wrong (RFC 9457), with Geti's `error_code` and `message` beside the standard members."""

    type: str
    status: int
    title: str
    detail: str
    error_code: str
    message: str


Document = dict[str, Any]
