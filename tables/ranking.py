"""The ranking: what is known of a project, folded from its rows, and the order in which its media are suggested.

A pool takes rows in any order and as often as they come: one that was built from a scan equals one that grew with the
events. The order over it is made when it is asked for, and kept until a row changes; whether a grant has run out is
asked when reading.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.errors import BadQuery, UnknownProject, UnknownTask
from streams.events import ProjectUpdated, Task
from tables.rows import (
    EMPTY,
    GRANT,
    HASH_BYTES,
    MEDIUM_BYTES,
    SCORE,
    SLOTS,
    STATE,
    STATES,
    UPLOAD_HEAD,
    UTILITIES,
    ActivationRow,
    BatchRow,
    Change,
    Kind,
    UploadRow,
    hashed,
    live,
    number_of,
    prefix_of,
    unpack_int,
)

Floats = NDArray[np.float64]
Whole = NDArray[np.intp]
Mask = NDArray[np.bool_]
# Media as bytes (tables/rows.py, `medium_bytes`), in order. numpy hides zeros at the end, in all of them alike.
MEDIA = np.dtype(f"S{MEDIUM_BYTES}")
Media = NDArray[np.bytes_]

ACTIVE, EARLIER, UNSCORED = 1, 2, 3
TIERS = {ACTIVE: "active_model", EARLIER: "earlier_model", UNSCORED: "not_scored"}
NEVER_SCORED = 1.0
NONE_STATE = STATES.index("none")
# What a ranking reads; some kinds are told apart by their task as well.
READ = frozenset(Kind) - {Kind.PROGRESS, Kind.REFERENCE}
BATCH = np.dtype([("model", "<u8"), ("batch", "<u8")])  # the key of a batch, after its task
BY_TASK = frozenset({Kind.STATE, Kind.SCORE, Kind.BATCH})


@dataclass(frozen=True)
class Scores:
    """What a task says of each medium of a pool: tier, score in [0, 1], and why.

    chosen: the slot that counts, `EMPTY` where there is none.
    extractor: the place in UTILITIES of the one that counts; -1 where there is none.
    """

    tier: NDArray[np.uint8]
    score: Floats
    utility: Floats
    extractor: NDArray[np.int8]
    chosen: NDArray[np.void]


@dataclass(frozen=True)
class Order:
    """The media of a task, or of the whole project, that may be annotated: their places in the pool, best first."""

    best: Whole
    tier: NDArray[np.uint8]
    score: Floats
    of_task: dict[str, Scores]


@dataclass(frozen=True)
class Place:
    """A medium in the order (its 12 bytes), and why it stands there."""

    medium: bytes
    rank: int
    score: float
    tier: str
    reasons: list[dict[str, Any]]


class Pool:
    """What is known of a project."""

    def __init__(self, project_id: str) -> None:
        self.project_id = project_id
        self._prefix = prefix_of(project_id)
        self._rows: dict[tuple[Kind, bytes], dict[bytes, bytes]] = defaultdict(dict)
        self._media: Media | None = None
        self._orders: dict[str | None, Order] = {}

    def update(self, rows: Iterable[Change]) -> None:
        """Take rows; those of other projects, and kinds that no ranking needs, are passed over."""
        for key, value in rows:
            if not key.startswith(self._prefix):
                continue
            kind, rest = Kind(key[len(self._prefix)]), key[len(self._prefix) + 1 :]
            if kind not in READ:
                continue
            by = HASH_BYTES if kind in BY_TASK else 0
            known = self._rows[kind, rest[:by]]
            if value is None:
                known.pop(rest[by:], None)
            else:
                # What an upload told is read when it is served.
                known[rest[by:]] = value[: UPLOAD_HEAD.size] if kind is Kind.UPLOAD else value
            if kind in (Kind.UPLOAD, Kind.REMOVAL, Kind.SCORE):
                self._media = None
            if kind is not Kind.GRANT:
                self._orders.clear()

    @property
    def project(self) -> ProjectUpdated:
        """The project as it is.

        Raises:
            UnknownProject: nothing was told of it, or it is gone.
        """
        told = self._table(Kind.PROJECT).get(b"")
        if told is None or unpack_int(told) <= self._removed(b""):
            raise UnknownProject(f"there is no project {self.project_id!r}")
        return msgspec.json.decode(told[8:], type=ProjectUpdated)

    def check_workspace(self, workspace_id: str) -> None:
        """Whether the project is this workspace's.

        Raises:
            UnknownProject: it is not.
        """
        if self.project.workspace_id != workspace_id:
            raise UnknownProject(f"there is no project {self.project_id!r} in workspace {workspace_id[:200]!r}")

    def task(self, task_id: str) -> Task:
        """A task of the project that can be trained.

        Raises:
            UnknownProject, UnknownTask: there is none.
            BadQuery: it cannot be trained.
        """
        for task in self.project.tasks:
            if task.task_id == task_id:
                if not task.trainable:
                    raise BadQuery(f"task_id must be a task that can be trained, and {task_id!r} cannot")
                return task
        raise UnknownTask(f"project {self.project_id!r} has no task {task_id!r}")

    def name(self, number: int) -> str | None:
        """The text that a hash stands for."""
        text = self._table(Kind.NAME).get(int(number).to_bytes(HASH_BYTES, "little"))
        return None if text is None else text.decode()

    def top(self, task_id: str | None, limit: int, now: int) -> list[Place]:
        """The best media to annotate now, that nobody has, best first.

        task_id: of one task, or of the whole project if none is given.
        now: milliseconds since the epoch.

        Raises:
            as `order`.
        """
        order = self.order(task_id)
        free = order.best[~self.taken(now)[order.best]][:limit]
        media = self.media()
        return [
            Place(
                medium=bytes(media[place]).ljust(MEDIUM_BYTES, b"\0"),
                rank=rank,
                score=float(order.score[place]),
                tier=TIERS[int(order.tier[place])],
                reasons=[self._reason(task, scores, place) for task, scores in order.of_task.items()],
            )
            for rank, place in enumerate(free, 1)
        ]

    def _reason(self, task: str, scores: Scores, place: int) -> dict[str, Any]:
        if scores.tier[place] == UNSCORED:
            return {"task_id": task, "tier": TIERS[UNSCORED], "score": NEVER_SCORED}
        slot = scores.chosen[place]
        return {
            "task_id": task,
            "tier": TIERS[int(scores.tier[place])],
            "score": float(scores.score[place]),
            "extractor": UTILITIES[scores.extractor[place]],
            "utility": float(scores.utility[place]),
            "label": self.name(slot["label"]),
            "model_id": self.name(slot["model"]),
        }

    def order(self, task_id: str | None) -> Order:
        """The media that may be annotated, best first: by tier, then by score, then by a fixed hash.

        Raises:
            UnknownProject, UnknownTask, BadQuery: as `task`.
        """
        if task_id is not None:
            self.task(task_id)
        if task_id not in self._orders:
            self._orders[task_id] = self._order(task_id)
        return self._orders[task_id]

    def _order(self, task_id: str | None) -> Order:
        project, media = self.project, self.media()
        asked = [task for task in project.tasks if task.trainable and task_id in (None, task.task_id)]
        of_task = {task.task_id: self._scores(task, project, media) for task in asked}
        # The worst of the tiers in which it is scored; the mean of the scores there are.
        shape = (len(of_task), len(media))
        tiers = np.array([each.tier for each in of_task.values()], dtype=np.uint8).reshape(shape)
        scores = np.array([each.score for each in of_task.values()]).reshape(shape)
        scored = tiers < UNSCORED
        count = scored.sum(axis=0)
        tier = np.where(count > 0, np.where(scored, tiers, 0).max(axis=0, initial=0), UNSCORED).astype(np.uint8)
        total = np.where(scored, scores, 0.0).sum(axis=0)
        score = np.where(count > 0, total / np.maximum(count, 1), NEVER_SCORED)
        eligible = np.ones(len(media), dtype=bool)
        for place, task in enumerate(project.tasks):
            if task_id in (None, task.task_id):
                state = self._states(task.task_id, media)
                # A later task of a chain works on what an earlier one found, which counts as partly annotated.
                later = task_id is not None and place > 0
                allowed = ("none", "partially_annotated") if later else ("none",)
                eligible &= np.isin(state, [STATES.index(each) for each in allowed])
        best = np.lexsort((self._chance(media), score, tier))
        return Order(best[eligible[best]], tier, score, of_task)

    def _scores(self, task: Task, project: ProjectUpdated, media: Media) -> Scores:
        """Ranks within each model's media become scores.

        The pool of a rank is all media that the model has scored, whatever was annotated since.
        """
        scores = Scores(
            tier=np.full(len(media), UNSCORED, dtype=np.uint8),
            score=np.full(len(media), NEVER_SCORED),
            utility=np.full(len(media), np.nan),
            extractor=np.full(len(media), -1, dtype=np.int8),
            chosen=np.full(len(media), EMPTY),
        )
        if project.active_learning.preset == "random":
            return scores
        task_hash = hashed(task.task_id)
        slots = self._gathered(Kind.SCORE, task_hash, np.full((len(media), SLOTS), EMPTY), SCORE, media)
        batches = self._table(Kind.BATCH, task_hash).items()
        complete = b"".join(key for key, row in batches if BatchRow.unpack(row).complete)
        usable = (slots["at"] >= 0) & np.isin(pairs(slots), pairs(np.frombuffer(complete, BATCH)))
        activation = self._table(Kind.ACTIVATION).get(task_hash)
        active = 0 if activation is None else number_of(ActivationRow.unpack(activation).model_id)
        # The active model's slot if it counts, else the later one.
        value = np.where(usable, slots["at"], -1)
        value = np.where(usable & (slots["model"] == active), np.iinfo(np.int64).max, value)
        place = value.argmax(axis=1)
        every = np.arange(len(media))
        there = usable[every, place]
        scores.chosen[there] = slots[every[there], place[there]]
        models = scores.chosen["model"]
        scores.tier[there] = np.where(models[there] == active, ACTIVE, EARLIER)
        stratified = task.task_type == "classification" and not task.multi_label
        for model in np.unique(models[there]):
            rows = np.flatnonzero(there & (models == model))
            told = [np.isfinite(scores.chosen[name][rows]) for name in UTILITIES]
            if not np.any(told):
                scores.tier[rows] = UNSCORED  # no extractor had anything to say
                continue
            extractor = int(np.any(told, axis=1).argmax())
            name = UTILITIES[extractor]
            utility = scores.chosen[name][rows].astype(np.float64)
            # Media in which the model found nothing stand in the middle, so that what it misses still surfaces.
            utility = np.where(told[extractor], utility, np.median(utility[told[extractor]]))
            strata = scores.chosen["label"][rows] if stratified and name == "margin" else np.zeros(len(rows), "<u8")
            scores.utility[rows] = utility
            scores.extractor[rows] = extractor
            scores.score[rows] = ranked(utility, strata, self._chance(media[rows]))
        return scores

    def _states(self, task_id: str, media: Media) -> NDArray[np.uint8]:
        """The annotation state of each medium in a task."""
        none = np.zeros(len(media), STATE)
        states: NDArray[np.uint8] = self._gathered(Kind.STATE, hashed(task_id), none, STATE, media)["state"]
        return states

    def state(self, task_id: str, medium: bytes) -> str:
        """The annotation state of one medium in a task."""
        row = self._table(Kind.STATE, hashed(task_id)).get(medium)
        return STATES[np.frombuffer(row, STATE)["state"][0] if row is not None else NONE_STATE]

    def taken(self, now: int) -> Mask:
        """Which media somebody has: suggested, or leased until later than now (milliseconds since the epoch)."""
        media = self.media()
        nobody = np.zeros(len(media), GRANT)
        nobody["offset"] = -1
        grants = self._gathered(Kind.GRANT, b"", nobody, GRANT, media)
        taken: Mask = (grants["offset"] >= 0) & live(grants, self.reset, now)
        return taken

    @property
    def reset(self) -> int:
        """Where the last reset of suggestions stands in its topic; -1 if there was none."""
        told = self._table(Kind.RESET).get(b"")
        return -1 if told is None else unpack_int(told)

    def holder(self, medium: bytes) -> int:
        """The hash of the request that a medium was granted to; 0 for none."""
        row = self._table(Kind.GRANT).get(medium)
        return 0 if row is None else int(np.frombuffer(row, GRANT)["holder"][0])

    def media(self) -> Media:
        """All media that exist: images, and of each video the frames that are implied or named by a score; in order."""
        if self._media is None:
            wholes: list[bytes] = []
            frames: list[Media] = []
            videos: dict[bytes, int] = {}
            gone = self._removed(b"")
            for whole, row in self._table(Kind.UPLOAD).items():
                upload = UploadRow.unpack(row)
                if upload.at <= max(gone, self._removed(whole)):
                    continue
                if not upload.frame_count:
                    wholes.append(whole + bytes(MEDIUM_BYTES - HASH_BYTES))
                    continue
                videos[whole] = upload.frame_count
                implied = np.empty(-(-upload.frame_count // upload.frame_stride), np.dtype([("w", "V8"), ("f", ">u4")]))
                implied["w"] = np.frombuffer(whole, "V8")
                implied["f"] = np.arange(0, upload.frame_count, upload.frame_stride)
                frames.append(implied.view(MEDIA).reshape(-1))
            named = {
                medium
                for (kind, _), table in self._rows.items()
                if kind is Kind.SCORE
                for medium in table
                if int.from_bytes(medium[HASH_BYTES:], "big") < videos.get(medium[:HASH_BYTES], 0)
            }
            self._media = np.unique(np.concatenate([as_media([*wholes, *named]), *frames]))
        return self._media

    def _removed(self, whole: bytes) -> int:
        """When an image or video went, or with nothing the project; before all time if it did not."""
        told = self._table(Kind.REMOVAL).get(whole)
        return -1 if told is None else unpack_int(told)

    def _table(self, kind: Kind, task: bytes = b"") -> dict[bytes, bytes]:
        return self._rows.get((kind, task), {})

    def _gathered(self, kind: Kind, task: bytes, default: Any, form: "np.dtype[Any]", media: Media) -> Any:
        """The fixed-width rows of a kind, one for each medium, the default where there is none."""
        table = self._table(kind, task)
        if table and len(media):
            keys = as_media(list(table))
            place = np.minimum(np.searchsorted(media, keys), len(media) - 1)
            known = media[place] == keys
            default[place[known]] = np.frombuffer(b"".join(table.values()), form)[known]
        return default

    def _chance(self, media: Media) -> NDArray[np.uint64]:
        """A number for each medium that looks drawn by lot, and is the same for ever."""
        parts = np.frombuffer(media.tobytes(), np.dtype([("whole", "<u8"), ("frame", ">u4")]))
        mixed = parts["whole"] ^ np.uint64(number_of(self.project_id))
        mixed = mixed + parts["frame"].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        # The finalizer of SplitMix64 (Steele et al. 2014).
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        return mixed ^ (mixed >> np.uint64(31))


def ranked(utility: Floats, strata: NDArray[np.uint64], chance: NDArray[np.uint64]) -> Floats:
    """Scores from utilities, (rows,) each: the rank within the stratum, best first, by the size of the largest one.

    So the best of each stratum have score 0, and a stratum that is small has no bad scores. Ties go by chance.

    >>> utility = np.array([0.9, 0.8, 0.7, 0.1])
    >>> ranked(utility, np.array([1, 1, 2, 1], np.uint64), np.arange(4, dtype=np.uint64)).round(3)
    array([0.   , 0.333, 0.   , 0.667])
    """
    order = np.lexsort((chance, -utility, strata))
    _, first, counts = np.unique(strata[order], return_index=True, return_counts=True)
    ranks = np.empty(len(utility))
    ranks[order] = np.arange(len(utility)) - np.repeat(first, counts)
    scores: Floats = ranks / max(1, counts.max(initial=0))
    return scores


def pairs(slots: NDArray[np.void]) -> NDArray[np.uint64]:
    """A number for each pair of a model and its batch."""
    return np.asarray(slots["model"] ^ slots["batch"].byteswap(), dtype=np.uint64)


def as_media(keys: list[bytes]) -> Media:
    """Media, as bytes, as one array."""
    return np.frombuffer(b"".join(keys), MEDIA)
