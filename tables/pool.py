"""A pool: what is known of a project, folded from its rows.

It takes rows in any order and as often as they come: one that was built from a scan equals one that grew with the
events. What was told before a project or a medium was deleted stays invisible, also when it comes again.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from typing import Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.errors import BadQuery, UnknownProject, UnknownTask
from streams.events import ProjectUpdated, State, Task
from tables.arrays import Mask, Numbers
from tables.chance import STEP, finalized
from tables.rows import (
    GRANT,
    HASH_BYTES,
    LABEL,
    MEDIUM_BYTES,
    SKIPS,
    STATE,
    STATES,
    UPLOAD,
    ActivationRow,
    BatchRow,
    Change,
    Kind,
    Rows,
    UploadRow,
    hashed,
    live,
    number_of,
    prefix_of,
    unpack_int,
)
from tables.shelves import Fixed, Shelf, as_keys, places_in, tails
from tables.slots import newest
from tables.told import Told

# Media as bytes (tables/rows.py, `medium_bytes`), in order. numpy hides zeros at the end, in all of them alike.
MEDIA = np.dtype(f"S{MEDIUM_BYTES}")
Media = NDArray[np.bytes_]

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
# The kinds of which there may be a million rows: the bytes of the rest of a key, and what is read of a value.
FORMS: dict[Kind, tuple[int, "np.dtype[Any]"]] = {
    Kind.UPLOAD: (HASH_BYTES, UPLOAD),  # what an upload told is read when it is served
    Kind.REMOVAL: (HASH_BYTES, np.dtype([("at", "<i8")])),
    Kind.STATE: (MEDIUM_BYTES, np.dtype(STATE.descr[:2])),
    Kind.LABEL: (MEDIUM_BYTES, LABEL),
    Kind.GRANT: (MEDIUM_BYTES, GRANT),
}
LOADED = (Kind.UPLOAD, Kind.STATE, Kind.LABEL, Kind.GRANT, Kind.SCORE)  # not what others are judged by
FEW = 40_000  # rows that are put among others at once, however few these are
GET = 500  # rows that are read at once, in a thread: it stops the event loop for a millisecond
Place = tuple[Kind, bytes]  # of a shelf: kind, and task if they are told apart by it


class Pool:
    """What is known of a project."""

    def __init__(self, project_id: str, rows: Rows) -> None:
        """Nothing is known yet.

        rows: where the sketches of media are read when they are needed.
        """
        self.project_id = project_id
        self._table = rows
        self._prefix = prefix_of(project_id)
        self._rows: dict[Place, dict[bytes, bytes]] = {}  # of the kinds of which there are few
        self._shelves: dict[Place, Shelf[Fixed]] = {}
        self._told: dict[bytes, Shelf[Told]] = {}  # scores, by task
        self._project: tuple[bytes, ProjectUpdated] | None = None  # as it was decoded last, and from which row
        # What users said of each medium, by its image or video; what is hidden by that from nobody in particular; and
        # where it is otherwise for a user: whether the medium is hidden from them.
        self._skips: dict[bytes, dict[bytes, dict[bytes, bytes]]] = {}
        self._hidden: set[bytes] = set()
        self._own: dict[bytes, dict[bytes, bool]] = {}
        self._hidden_lent = False  # another thread reads what is hidden

    def load(self, kind: Kind, rows: Sequence[tuple[bytes, bytes]]) -> None:
        """Take rows of a scan of one kind, in order of their keys; they count from the next `settle` on.

        What came or comes by `update` counts more.
        """
        if kind not in LOADED:
            self.update(rows)
            return
        head = len(self._prefix) + 1
        by, first = head + BY.get(kind, 0), 0
        while first < len(rows):
            start = rows[first][0][:by]  # most are of one task
            end = bisect_right(rows, start, lo=first, key=lambda row: row[0][:by])
            some = rows[first:end] if end - first < len(rows) else rows
            self._shelf(kind, start[head:]).load(tails([key for key, _ in some], by), [value for _, value in some])
            first = end

    def update(self, rows: Iterable[Change]) -> None:
        """Take rows; those of other projects, and kinds that no ranking needs, are passed over."""
        scores = self._prefix + bytes([Kind.SCORE])
        first, of, shelf = len(scores) + HASH_BYTES, b"", cast("Shelf[Any]", None)
        for key, value in rows:
            if key.startswith(scores):  # of which there are most, and one after the other of one task
                if not of or not key.startswith(of):
                    of = key[:first]
                    shelf = self._shelf(Kind.SCORE, of[len(scores) :])
                shelf.change(key[first:], value)
                continue
            if not key.startswith(self._prefix):
                continue
            kind, rest = KINDS[key[len(self._prefix)]], key[len(self._prefix) + 1 :]
            if kind is Kind.SKIP:
                self._skip(rest[:MEDIUM_BYTES], rest[MEDIUM_BYTES:], value)
            elif kind in READ:
                self._take(kind, rest, value)

    def _take(self, kind: Kind, rest: bytes, value: bytes | None) -> None:
        by = BY.get(kind, 0)
        task, rest = rest[:by], rest[by:]
        if kind in FORMS and rest:
            self._shelf(kind, task).change(rest, None if value is None else value[: FORMS[kind][1].itemsize])
        elif value is None:
            self._rows.get((kind, task), {}).pop(rest, None)
        else:
            self._rows.setdefault((kind, task), {})[rest] = value
        if kind is Kind.REMOVAL:
            for whole in [rest] if rest else self._skips:
                for medium, users in self._skips.get(whole, {}).items():
                    self._hide(medium, users)

    def _shelf(self, kind: Kind, task: bytes) -> Shelf[Any]:
        """The rows of a kind, of which there may be many."""
        if kind is Kind.SCORE:
            if task not in self._told:
                self._told[task] = Shelf(Told.none())
            return self._told[task]
        if (kind, task) not in self._shelves:
            self._shelves[kind, task] = Shelf(Fixed.none(*FORMS[kind]))
        return self._shelves[kind, task]

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
            if self._hidden_lent:
                self._hidden, self._hidden_lent = self._hidden.copy(), False
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

    @property
    def waiting(self) -> float:
        """How many rows have changed since they were put in order: of those of their kind, a share."""
        return max((each.waiting / (len(each) + FEW) for each in self._all()), default=0.0)

    def lent(self) -> "Pool":
        """The pool as it is, for another thread to read while this one goes on; it is to be given back."""
        pool = Pool(self.project_id, self._table)
        pool._rows = {place: rows.copy() for place, rows in self._rows.items() if place[0] is not Kind.NAME}
        pool._shelves = {place: shelf.lent() for place, shelf in self._shelves.items()}
        pool._told = {task: shelf.lent() for task, shelf in self._told.items()}
        pool._hidden, self._hidden_lent = self._hidden, True
        return pool

    def given_back(self, pool: "Pool") -> None:
        """The other thread reads no more; what it has put in order is kept."""
        for place in self._shelves.keys() & pool._shelves.keys():
            self._shelves[place].given_back(pool._shelves[place])
        for task in self._told.keys() & pool._told.keys():
            self._told[task].given_back(pool._told[task])
        self._hidden_lent = False

    def settle(self) -> None:
        """Put what has changed among the other rows; it takes a moment where these are a million."""
        for shelf in self._all():
            shelf.settle()

    def _all(self) -> list[Shelf[Any]]:
        return [*self._shelves.values(), *self._told.values()]

    @property
    def project(self) -> ProjectUpdated:
        """The project as it is.

        Raises:
            UnknownProject: nothing was told of it, or it is gone.
        """
        told = self._few(Kind.PROJECT).get(b"")
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
        text = self._few(Kind.NAME).get(int(number).to_bytes(HASH_BYTES, "little"))
        return None if text is None else text.decode()

    def active_model(self, task_id: str) -> str | None:
        """A task's active model; none if there is none."""
        told = self._few(Kind.ACTIVATION).get(hashed(task_id))
        if told is None or unpack_int(told) <= self._removed():
            return None
        return ActivationRow.unpack(told).model_id

    def score_rows(self, task_id: str, media: Media) -> list[bytes | None]:
        """The score rows of some media in a task, as they are now; some at a time, for it stops other threads.

        Raises:
            NotReady: the partition went.
        """
        head = prefix_of(self.project_id, Kind.SCORE) + hashed(task_id)
        keys = [head + bytes(each).ljust(MEDIUM_BYTES, b"\0") for each in media]
        return [row for first in range(0, len(keys), GET) for row in self._table.get(keys[first : first + GET])]

    def batches(self, task_id: str) -> dict[bytes, BatchRow]:
        """What has come of each batch of a task, by the bytes of its model and name."""
        return {key: BatchRow.unpack(row) for key, row in self._few(Kind.BATCH, hashed(task_id)).items()}

    def state(self, task_id: str, medium: bytes) -> State:
        """The annotation state of one medium in a task."""
        row = self._row(Kind.STATE, medium, hashed(task_id))
        if row is None or unpack_int(row) <= self._removed(medium[:HASH_BYTES]):
            return "none"
        return STATES[row[8]]

    def eligible(self, medium: bytes, storage: int, tasks: Sequence[str], allowed: Sequence[int]) -> bool:
        """Whether a medium exists, and is in one of some annotation states in each of some tasks.

        storage: where it must be. allowed: places in STATES.
        """
        whole = medium[:HASH_BYTES]
        removed, told = self._removed(whole), self._row(Kind.UPLOAD, whole)
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
        for shelf in self._told.values():
            changed = shelf.changed(medium)
            row = None if changed is None else changed[0]
            at = shelf.block.newest(medium) if changed is None else None if row is None else newest(row)
            if at is not None and at > removed:
                return True
        return False

    def free(self, medium: bytes, now: int) -> bool:
        """Whether nobody has a medium. now: milliseconds since the epoch."""
        grant = np.frombuffer(self._row(Kind.GRANT, medium) or b"", GRANT)
        held = live(grant, self.reset, now) & (grant["uploaded_at"] > self._removed(medium[:HASH_BYTES]))
        return not held.any()

    def skipped(self, medium: bytes, user_id: str | None) -> bool:
        """Whether a medium is not for a user, or without one, for nobody in particular: somebody has said so."""
        return self._of(user_id).get(medium, medium in self._hidden)

    def hidden(self) -> Collection[bytes]:
        """The media that are not for nobody in particular."""
        return self._hidden

    def hidden_from(self, user_id: str | None, media: Media, hidden: Mask) -> Mask:
        """Which of some media are not for a user. hidden: which of them are not for nobody in particular.

        It takes half a microsecond for each medium of which the two differ.
        """
        own = self._of(user_id)
        if not own or not len(media):
            return hidden
        hidden, (places, there) = hidden.copy(), places_in(media, as_keys(own, MEDIA))
        hidden[places[there]] = np.fromiter(own.values(), dtype=bool)[there]
        return hidden

    def _of(self, user_id: str | None) -> dict[bytes, bool]:
        """Where it is otherwise for a user than for nobody in particular: whether a medium is hidden from them."""
        return {} if user_id is None else self._own.get(hashed(user_id), {})

    def until(self, medium: bytes, now: int) -> int | None:
        """Until when somebody has a medium; `FOREVER` without an end, none if nobody has it."""
        if self.free(medium, now):
            return None
        return self._grant(medium, "until")

    @property
    def reset(self) -> int:
        """Where the last reset of suggestions stands in its topic; -1 if there was none."""
        told = self._few(Kind.RESET).get(b"")
        return -1 if told is None else unpack_int(told)

    def uploaded(self, medium: bytes) -> int:
        """When a medium was uploaded; before all time if it was not."""
        told = self._row(Kind.UPLOAD, medium[:HASH_BYTES])
        return -1 if told is None else unpack_int(told)

    def exists(self, medium: bytes) -> bool:
        """Whether a medium's image or video was uploaded, and not deleted since."""
        return not self.gone(medium, self.uploaded(medium))

    def gone(self, medium: bytes, uploaded_at: int) -> bool:
        """Whether an upload of a medium was deleted since."""
        return uploaded_at <= self._removed(medium[:HASH_BYTES])

    def holder(self, medium: bytes, now: int) -> int:
        """The hash of the request that has a medium; 0 if nobody has it. now: milliseconds since the epoch."""
        return 0 if self.free(medium, now) else self._grant(medium, "holder")

    def _grant(self, medium: bytes, what: str) -> int:
        """What the grant of a medium tells, that there is."""
        return int(np.frombuffer(self._row(Kind.GRANT, medium) or b"", GRANT)[what][0])

    def removed(self) -> int:
        """When the project went last; before all time if it never did."""
        told = self._few(Kind.REMOVAL).get(b"")
        return -1 if told is None else unpack_int(told)

    def _removed(self, whole: bytes = b"") -> int:
        """When the project went, or an image or video, itself or with the project; before all time if it did not."""
        told = self._row(Kind.REMOVAL, whole)
        return max(self.removed(), -1 if told is None else unpack_int(told))

    def _few(self, kind: Kind, task: bytes = b"") -> dict[bytes, bytes]:
        """The rows of a kind of which there are few, by the rest of their keys."""
        return self._rows.get((kind, task), {})

    def _row(self, kind: Kind, key: bytes, task: bytes = b"") -> bytes | None:
        """A row of a kind of which there may be many."""
        shelf = self._shelves.get((kind, task))
        if shelf is None or not key:
            return None
        changed = shelf.changed(key)
        return shelf.block.get(key) if changed is None else changed[0]

    def all(self, kind: Kind, task: bytes = b"") -> Fixed:
        """All rows of a kind of which there may be many, in order."""
        block: Fixed = self._shelf(kind, task).settle()
        return block

    def told(self) -> dict[bytes, Told]:
        """All that models said, by the hash of the task."""
        return {task: shelf.settle() for task, shelf in self._told.items()}

    def chance_of(self, media: Media) -> Numbers:
        """A number for each of some media that looks drawn by lot, and is the same for ever."""
        parts = np.frombuffer(media.tobytes(), np.dtype([("whole", "<u8"), ("frame", ">u4")]))
        of_whole = parts["whole"] ^ np.uint64(number_of(self.project_id))
        return finalized(of_whole + parts["frame"].astype(np.uint64) * np.uint64(STEP))
