"""A pool: what is known of a project, folded from its rows.

It takes rows in any order and as often as they come: one that was built from a scan equals one that grew with the
events. What was told before a project or a medium was deleted stays invisible, also when it comes again.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.errors import BadQuery, UnknownProject, UnknownTask
from streams.events import ProjectUpdated, State, Task
from tables.arrays import Mask, Numbers
from tables.chance import STEP, finalized
from tables.rows import (
    FOREVER,
    GRANT,
    HASH_BYTES,
    LABEL,
    MEDIUM_BYTES,
    SKIPS,
    STATE,
    STATES,
    UPLOAD_HEAD,
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
from tables.slots import Slots, newest, said

# Media as bytes (tables/rows.py, `medium_bytes`), in order. numpy hides zeros at the end, in all of them alike.
MEDIA = np.dtype(f"S{MEDIUM_BYTES}")
PARTS = np.dtype([("whole", f"S{HASH_BYTES}"), ("frame", ">u4")])  # the same, taken apart
Media = NDArray[np.bytes_]
Times = NDArray[np.int64]

NONE_STATE = STATES.index("none")
# What a ranking reads.
READ = frozenset(Kind) - {
    Kind.PROGRESS,
    Kind.REFERENCE,
    Kind.LAST_REMOVAL,
    Kind.SWEEP,
    Kind.LEASE,
    Kind.LEASE_END,
}
# Some kinds are told apart by their task as well: so many bytes of the rest of a key.
BY: dict[Kind, int] = dict.fromkeys((Kind.STATE, Kind.LABEL, Kind.SCORE, Kind.BATCH), HASH_BYTES)
KINDS = [*Kind]  # by their numbers
HIDDEN = (Kind.SKIP, b"")  # what is hidden, where rows are meant


class Pool:
    """What is known of a project."""

    def __init__(self, project_id: str) -> None:
        self.project_id = project_id
        self._prefix = prefix_of(project_id)
        self._rows: dict[tuple[Kind, bytes], dict[bytes, bytes]] = defaultdict(dict)
        self._media: Media | None = None  # kept until a row changes them,
        self._times: Times | None = None  # and with them when each was deleted
        self._videos: dict[bytes, int] = {}
        self._project: tuple[bytes, ProjectUpdated] | None = None  # as it was decoded last, and from which row
        self._epoch = 0  # how often they were changed
        # What users said of each medium, by its image or video; what is hidden by that from nobody in particular; and
        # where it is otherwise for a user: whether the medium is hidden from them.
        self._skips: dict[bytes, dict[bytes, dict[bytes, bytes]]] = {}
        self._hidden: set[bytes] = set()
        self._own: dict[bytes, dict[bytes, bool]] = {}
        self._lent: set[tuple[Kind, bytes]] = set()  # rows that another thread reads, and what is hidden

    def update(self, rows: Iterable[Change], *, visible: bool = True) -> None:
        """Take rows; those of other projects, and kinds that no ranking needs, are passed over.

        visible: no, if they go because nobody can see them.
        """
        for key, value in rows:
            if not key.startswith(self._prefix):
                continue
            kind, rest = KINDS[key[len(self._prefix)]], key[len(self._prefix) + 1 :]
            if kind is Kind.SKIP:
                self._skip(rest[:MEDIUM_BYTES], rest[MEDIUM_BYTES:], value)
            if kind not in READ or kind is Kind.SKIP:
                continue
            by = BY.get(kind, 0)
            if (kind, rest[:by]) in self._lent:
                self._lent.discard((kind, rest[:by]))
                self._rows[kind, rest[:by]] = dict(self._rows[kind, rest[:by]])
            known = self._rows[kind, rest[:by]]
            if value is None:
                known.pop(rest[by:], None)
            else:
                # What an upload told is read when it is served.
                known[rest[by:]] = value[: UPLOAD_HEAD.size] if kind is Kind.UPLOAD else value
            if kind is Kind.REMOVAL:
                for whole in [rest] if rest else self._skips:
                    for medium, users in self._skips.get(whole, {}).items():
                        self._hide(medium, users)
            # A score may name a frame that no stride implies.
            frame = kind is Kind.SCORE and (self._media is None or rest[by : by + HASH_BYTES] in self._videos)
            if visible and (kind in (Kind.PROJECT, Kind.UPLOAD, Kind.REMOVAL) or frame):
                self._media = self._times = None
                self._epoch += 1

    def _skip(self, medium: bytes, user: bytes, value: bytes | None) -> None:
        """Take the row of a skip."""
        of_whole = self._skips.setdefault(medium[:HASH_BYTES], {})
        told = of_whole.setdefault(medium, {})
        if value is None:
            told.pop(user, None)
        else:
            told[user] = value
        self._hide(medium, {*told, user})
        if not told:
            del of_whole[medium]
        if not of_whole:
            del self._skips[medium[:HASH_BYTES]]

    def _hide(self, medium: bytes, users: Iterable[bytes]) -> None:
        """Tell anew whether a medium is hidden from nobody in particular, and from these users."""
        since, told = self._removed(medium[:HASH_BYTES]), self._skips[medium[:HASH_BYTES]][medium]
        whom = {user: SKIPS[row[-1]] for user, row in told.items() if unpack_int(row) > since}
        others, good = [*whom.values()].count("others"), "good" in whom.values()
        hidden = good or others > 0
        if hidden is not (medium in self._hidden):
            if HIDDEN in self._lent:
                self._lent.discard(HIDDEN)
                self._hidden = self._hidden.copy()
            self._hidden ^= {medium}
        for user in users:
            own = self._own.setdefault(user, {})
            from_them = {"me": True, "others": good or others > 1}.get(whom.get(user, ""), hidden)
            if from_them is hidden:
                own.pop(medium, None)
            else:
                own[medium] = from_them
            if not own:
                del self._own[user]

    def lent(self) -> "Pool":
        """The pool as it is, for another thread to read while this one goes on; it is to be given back."""
        pool = Pool(self.project_id)
        pool._rows, pool._hidden = self._rows.copy(), self._hidden
        pool._media, pool._times, pool._videos, pool._epoch = self._media, self._times, self._videos, self._epoch
        self._lent = {*self._rows, HIDDEN}
        return pool

    def given_back(self, pool: "Pool") -> None:
        """The other thread reads no more; what it found out of the media is kept, if they are the same still."""
        self._lent.clear()
        if pool._epoch == self._epoch:
            self._media, self._times, self._videos = pool._media, pool._times, pool._videos

    @property
    def project(self) -> ProjectUpdated:
        """The project as it is.

        Raises:
            UnknownProject: nothing was told of it, or it is gone.
        """
        told = self.rows(Kind.PROJECT).get(b"")
        if told is None or unpack_int(told) <= self._removed():
            raise UnknownProject(f"there is no project {self.project_id!r}")
        if self._project is None or self._project[0] is not told:
            self._project = told, msgspec.json.decode(told[8:], type=ProjectUpdated)
        return self._project[1]

    @property
    def storage(self) -> int:
        """The hash of the dataset storage whose media are trained with."""
        return number_of(self.project.dataset_storage_id)

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
        raise UnknownTask(f"project {self.project_id!r} has no task {task_id[:100]!r}")

    def check_task(self, task_id: str | None) -> None:
        """Whether there is the project, and if one is named, the task.

        Raises:
            as `task`.
        """
        if task_id is None:
            self.project  # noqa: B018 - it raises
        else:
            self.task(task_id)

    def name(self, number: int) -> str | None:
        """The text that a hash stands for."""
        text = self.rows(Kind.NAME).get(int(number).to_bytes(HASH_BYTES, "little"))
        return None if text is None else text.decode()

    def active_model(self, task_id: str) -> str | None:
        """A task's active model; none if there is none."""
        told = self.rows(Kind.ACTIVATION).get(hashed(task_id))
        if told is None or unpack_int(told) <= self._removed():
            return None
        return ActivationRow.unpack(told).model_id

    def score_rows(self, task_id: str, media: Media) -> list[bytes | None]:
        """The score rows of some media in a task."""
        known = self.rows(Kind.SCORE, hashed(task_id))
        return [known.get(bytes(each).ljust(MEDIUM_BYTES, b"\0")) for each in media]

    def batches(self, task_id: str) -> dict[bytes, BatchRow]:
        """What has come of each batch of a task, by the bytes of its model and name."""
        return {key: BatchRow.unpack(row) for key, row in self.rows(Kind.BATCH, hashed(task_id)).items()}

    def slots(self, task_id: str) -> tuple[NDArray[np.intp], NDArray[np.intp], Slots]:
        """All slots of media in a task: of which medium each is, its place among those of it, and the slot.

        Those of what a medium was before it was deleted are not there.
        """
        known, media = self.rows(Kind.SCORE, hashed(task_id)), self.media()
        if not known or not len(media):
            return said([])
        where, there = places_of(media, known)
        rows, places, slots = said([row for row, is_there in zip(known.values(), there, strict=True) if is_there])
        alive = slots["at"] > self.removed()[where[rows]]
        return where[rows][alive], places[alive], slots[alive]

    def states(self, task_id: str) -> NDArray[np.uint8]:
        """The annotation state of each medium in a task."""
        found = self.gathered(Kind.STATE, hashed(task_id), STATE, np.zeros((), STATE))
        states: NDArray[np.uint8] = np.where(found["at"] > self.removed(), found["state"], NONE_STATE)
        return states

    def truth(self, task_id: str) -> Numbers:
        """The hash of the label that a person gave each medium in a task, as a model was told it; 0 for none."""
        found = self.gathered(Kind.LABEL, hashed(task_id), LABEL, np.zeros((), LABEL))
        labels: Numbers = np.where(found["at"] > self.removed(), found["label"], 0)
        return labels

    def state(self, task_id: str, medium: bytes) -> State:
        """The annotation state of one medium in a task."""
        row = self.rows(Kind.STATE, hashed(task_id)).get(medium)
        found = np.frombuffer(row, STATE)[0] if row is not None else np.zeros((), STATE)
        return STATES[found["state"] if found["at"] > self._removed(medium[:HASH_BYTES]) else NONE_STATE]

    def taken(self, now: int) -> tuple[Mask, Times]:
        """Which media somebody has, suggested or leased until later than now, and until when; `FOREVER` if not taken.

        now: milliseconds since the epoch.
        """
        grants = self._grants()
        taken: Mask = (grants["offset"] >= 0) & (grants["uploaded_at"] > self.removed()) & live(grants, self.reset, now)
        return taken, np.where(taken, grants["until"], FOREVER)

    def eligible(self, medium: bytes, storage: int, tasks: Sequence[str], allowed: Sequence[int]) -> bool:
        """Whether a medium exists, and is in one of some annotation states in each of some tasks.

        storage: where it must be. allowed: places in STATES.
        """
        whole = medium[:HASH_BYTES]
        removed, told = self._removed(whole), self.rows(Kind.UPLOAD).get(whole)
        upload = None if told is None else UploadRow.unpack(told)
        frame = int.from_bytes(medium[HASH_BYTES:], "big")
        if (
            upload is None
            or upload.at <= removed
            or upload.storage != storage
            or frame > max(0, upload.frame_count - 1)
        ):
            return False
        if frame % upload.frame_stride and not self._named(medium, removed):
            return False
        return all(STATES.index(self.state(task, medium)) in allowed for task in tasks)

    def _named(self, medium: bytes, removed: int) -> bool:
        """Whether a score of later than a time names a medium."""
        of_tasks = [known.get(medium) for (kind, _), known in self._rows.items() if kind is Kind.SCORE]
        return any(row is not None and newest(row) > removed for row in of_tasks)

    def free(self, medium: bytes, now: int) -> bool:
        """Whether nobody has a medium. now: milliseconds since the epoch."""
        grant = np.frombuffer(self.rows(Kind.GRANT).get(medium) or b"", GRANT)
        held = live(grant, self.reset, now) & (grant["uploaded_at"] > self._removed(medium[:HASH_BYTES]))
        return not held.any()

    def skipped(self, medium: bytes, user_id: str | None) -> bool:
        """Whether a medium is not for a user, or without one, for nobody in particular: somebody has said so."""
        return self._of(user_id).get(medium, medium in self._hidden)

    def hidden(self) -> Mask:
        """Which media are not for nobody in particular."""
        hidden = np.zeros(len(self.media()), dtype=bool)
        if self._hidden and len(hidden):
            hidden[places_of(self.media(), self._hidden)[0]] = True
        return hidden

    def hidden_from(self, user_id: str | None, media: Media, hidden: Mask) -> Mask:
        """Which of some media are not for a user. hidden: which of them are not for nobody in particular.

        It takes half a microsecond for each medium of which the two differ.
        """
        own = self._of(user_id)
        if not own or not len(media):
            return hidden
        hidden, (places, there) = hidden.copy(), places_of(media, own)
        hidden[places] = np.fromiter(own.values(), dtype=bool)[there]
        return hidden

    def _of(self, user_id: str | None) -> dict[bytes, bool]:
        """Where it is otherwise for a user than for nobody in particular: whether a medium is hidden from them."""
        return {} if user_id is None else self._own.get(hashed(user_id), {})

    def until(self, medium: bytes, now: int) -> int | None:
        """Until when somebody has a medium; `FOREVER` without an end, none if nobody has it."""
        if self.free(medium, now):
            return None
        return int(np.frombuffer(self.rows(Kind.GRANT)[medium], GRANT)["until"][0])

    def _grants(self) -> Any:
        return self.gathered(Kind.GRANT, b"", GRANT, np.array((-1, -1, False, -1, 0), GRANT))

    @property
    def reset(self) -> int:
        """Where the last reset of suggestions stands in its topic; -1 if there was none."""
        told = self.rows(Kind.RESET).get(b"")
        return -1 if told is None else unpack_int(told)

    def uploaded(self, medium: bytes) -> int:
        """When a medium that exists was uploaded."""
        return UploadRow.unpack(self.rows(Kind.UPLOAD)[medium[:HASH_BYTES]]).at

    def exists(self, medium: bytes) -> bool:
        """Whether a medium's image or video was uploaded, and not deleted since."""
        told = self.rows(Kind.UPLOAD).get(medium[:HASH_BYTES])
        return told is not None and not self.gone(medium, UploadRow.unpack(told).at)

    def gone(self, medium: bytes, uploaded_at: int) -> bool:
        """Whether an upload of a medium was deleted since."""
        return uploaded_at <= self._removed(medium[:HASH_BYTES])

    def holder(self, medium: bytes, now: int) -> int:
        """The hash of the request that has a medium; 0 if nobody has it. now: milliseconds since the epoch."""
        return 0 if self.free(medium, now) else int(np.frombuffer(self.rows(Kind.GRANT)[medium], GRANT)["holder"][0])

    def media(self) -> Media:
        """All media that exist: images, and of each video the frames that are implied or named by a score; in order.

        They are in the project's own dataset storage: what is in another is not trained with.

        Raises:
            UnknownProject: nothing was told of the project, or it is gone.
        """
        if self._media is None:
            images: list[bytes] = []
            frames: list[Media] = []
            self._videos = {}
            storage = self.storage
            for whole, row in self.rows(Kind.UPLOAD).items():
                upload = UploadRow.unpack(row)
                if upload.at <= self._removed(whole) or upload.storage != storage:
                    continue
                if not upload.frame_count:
                    images.append(whole + bytes(MEDIUM_BYTES - HASH_BYTES))
                    continue
                self._videos[whole] = upload.frame_count
                implied = np.empty(-(-upload.frame_count // upload.frame_stride), PARTS)
                implied["whole"] = whole
                implied["frame"] = np.arange(0, upload.frame_count, upload.frame_stride)
                frames.append(implied.view(MEDIA).reshape(-1))
            named = {
                medium
                for (kind, _), known in self._rows.items()
                if kind is Kind.SCORE and self._videos
                for medium, row in known.items()
                if int.from_bytes(medium[HASH_BYTES:], "big") < self._videos.get(medium[:HASH_BYTES], 0)
                and newest(row) > self._removed(medium[:HASH_BYTES])
            }
            self._media = np.unique(np.concatenate([as_media([*images, *named]), *frames]))
        return self._media

    def removed(self) -> Times:
        """When each medium was deleted last, itself or with the project; before all time if it never was."""
        if self._times is None:
            media = self.media()
            times = np.full(len(media), self._removed())
            removals = [(whole, self._removed(whole)) for whole in self.rows(Kind.REMOVAL) if whole]
            if removals and len(media):
                wholes = np.frombuffer(media.tobytes(), PARTS)["whole"]
                known = np.array(sorted(removals), np.dtype([("whole", f"S{HASH_BYTES}"), ("at", "<i8")]))
                place = np.minimum(np.searchsorted(known["whole"], wholes), len(known) - 1)
                times = np.where(known["whole"][place] == wholes, known["at"][place], times)
            self._times = times
        return self._times

    def _removed(self, whole: bytes = b"") -> int:
        """When the project went, or an image or video, itself or with the project; before all time if it did not."""
        removals = self.rows(Kind.REMOVAL)
        return max(unpack_int(removals[key]) if key in removals else -1 for key in (b"", whole))

    def rows(self, kind: Kind, task: bytes = b"") -> dict[bytes, bytes]:
        """The rows of a kind, by the rest of their keys."""
        return self._rows.get((kind, task), {})

    def gathered(self, kind: Kind, task: bytes, form: "np.dtype[Any]", default: NDArray[np.void]) -> Any:
        """The fixed-width rows of a kind, one for each medium, the default where there is none."""
        known, media = self.rows(kind, task), self.media()
        found = np.full(len(media), default)
        if known and len(media):
            place, there = places_of(media, known)
            found[place] = np.frombuffer(b"".join(known.values()), form)[there]
        return found

    def chance(self) -> Numbers:
        """A number for each medium that looks drawn by lot, and is the same for ever."""
        return self.chance_of(self.media())

    def chance_of(self, media: Media) -> Numbers:
        """The same of some media."""
        parts = np.frombuffer(media.tobytes(), np.dtype([("whole", "<u8"), ("frame", ">u4")]))
        of_whole = parts["whole"] ^ np.uint64(number_of(self.project_id))
        return finalized(of_whole + parts["frame"].astype(np.uint64) * np.uint64(STEP))


def places_of(media: Media, known: Collection[bytes]) -> tuple[NDArray[np.intp], Mask]:
    """Where some media stand in a pool, and which of them do at all."""
    keys = as_media([*known])
    place = np.minimum(np.searchsorted(media, keys), len(media) - 1)
    there = media[place] == keys
    return place[there], there


def as_media(keys: list[bytes]) -> Media:
    """Media, as bytes, as one array."""
    return np.frombuffer(b"".join(keys), MEDIA)
