"""The fold: an event and the rows there are in, the rows that change out. Pure: no clock, no chance, no settings.

A fold reads only rows that its own topic wrote (and names, which are what they are), so topics may come in any order.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import msgspec
import numpy as np

from agents.score import Scored
from agents.slots import complete, slot_of
from streams.artifacts import Columns
from streams.events import (
    AnnotationUpdated,
    ArtifactsInferred,
    Event,
    Granted,
    MediaDeleted,
    ModelActivated,
    ProjectDeleted,
    ProjectUpdated,
    Reset,
    Uploads,
)
from streams.tensors import Array
from tables.rows import (
    EMPTY,
    FOREVER,
    GRANT,
    HASH_BYTES,
    SCORE,
    SLOTS,
    STATE,
    STATES,
    UTILITIES,
    ActivationRow,
    BatchRow,
    Change,
    Kind,
    Rows,
    UploadRow,
    hashed,
    live,
    medium_bytes,
    number_of,
    pack_int,
    prefix_of,
    unpack_int,
    whole_bytes,
)

REFERENCES = 1000  # seen rows that are kept of a batch,
REFERENCE_NUMBERS = 4_000_000  # fewer of long ones: a PCA needs several times this memory
LARGEST = np.finfo(np.float32).max  # utility that a row can hold
SWEPT = 10_000  # rows that one event deletes at most


def fold(event: Event, rows: Rows, offset: int) -> list[Change]:
    """The rows that an event changes; those of artifacts are `fold_seen` and `fold_unseen`.

    offset: the event's place in its topic, which decides between grants.
    """
    changes: list[Change] = FOLDS[type(event)](event, rows, offset)
    return changes


def fold_project(event: ProjectUpdated, rows: Rows, _: int) -> list[Change]:
    """The project as it is told; of two, the later timestamp wins, among equals the log's order. So everywhere here."""
    told = pack_int(event.timestamp) + msgspec.json.encode(event)
    return latest({prefix_of(event.project_id, Kind.PROJECT): told}, rows)


def fold_project_deletion(event: ProjectDeleted, rows: Rows, _: int) -> list[Change]:
    """When the project went: what was told before is invisible from now on."""
    return latest({prefix_of(event.project_id, Kind.REMOVAL): pack_int(event.timestamp)}, rows)


def fold_uploads(event: Uploads, rows: Rows, _: int) -> list[Change]:
    """A row for each image or video; its frames are implied."""
    prefix = prefix_of(event.project_id, Kind.UPLOAD)
    return latest(
        {
            prefix + whole_bytes(each.medium): UploadRow(
                event.timestamp, each.frame_count, each.frame_stride, each.told
            ).pack()
            for each in event.uploads
        },
        rows,
    )


def fold_deletion(event: MediaDeleted, rows: Rows, _: int) -> list[Change]:
    """When each medium went."""
    prefix = prefix_of(event.project_id, Kind.REMOVAL)
    return latest({prefix + whole_bytes(medium): pack_int(event.timestamp) for medium in event.which()}, rows)


def fold_annotation(event: AnnotationUpdated, rows: Rows, _: int) -> list[Change]:
    """A row for each task that is named."""
    prefix, medium = prefix_of(event.project_id, Kind.STATE), medium_bytes(event.medium)
    user = number_of(event.user_id)
    return latest(
        {
            prefix + hashed(task) + medium: np.array((event.timestamp, STATES.index(state), user), STATE).tobytes()
            for task, state in event.states.items()
        },
        rows,
    )


def fold_activation(event: ModelActivated, rows: Rows, _: int) -> list[Change]:
    """The active model of its task."""
    key = prefix_of(event.project_id, Kind.ACTIVATION) + hashed(event.task_id)
    return latest({key: ActivationRow(event.timestamp, event.model_id).pack()}, rows)


def fold_grant(event: Granted, rows: Rows, offset: int) -> list[Change]:
    """The media that nobody holds become the asker's: the log alone decides, the first live holder keeps a medium.

    Live is what had not run out when the event was published, was not swept away by a reset, and is of the medium as it
    was uploaded last: when it was deleted is in the event, for that is another topic's to tell. A deletion that comes
    late, and is older than the upload, ends nothing.
    """
    prefix = prefix_of(event.project_id, Kind.GRANT)
    keys = [prefix + medium_bytes(pick.medium) for pick in event.media]
    [told] = rows.get([prefix_of(event.project_id, Kind.RESET)])
    reset = -1 if told is None else unpack_int(told)
    until = FOREVER if event.expires_at is None else event.expires_at
    holder = number_of(event.request_id)
    changes: list[Change] = []
    for pick, key, row in zip(event.media, keys, rows.get(keys), strict=True):
        deleted_at = -1 if pick.deleted_at is None else pick.deleted_at
        held = np.frombuffer(row or b"", GRANT)
        if not (live(held, reset, event.timestamp) & (held["uploaded_at"] > deleted_at)).any():
            uploaded_at = event.timestamp if pick.uploaded_at is None else pick.uploaded_at
            changes.append((key, np.array((offset, uploaded_at, until, holder), GRANT).tobytes()))
    return changes


def fold_reset(event: Reset, _: Rows, offset: int) -> list[Change]:
    """Where the last reset stands in the log."""
    return [(prefix_of(event.project_id, Kind.RESET), pack_int(offset))]


FOLDS: Mapping[type[Event], Any] = {
    ProjectUpdated: fold_project,
    ProjectDeleted: fold_project_deletion,
    Uploads: fold_uploads,
    MediaDeleted: fold_deletion,
    AnnotationUpdated: fold_annotation,
    ModelActivated: fold_activation,
    Granted: fold_grant,
    Reset: fold_reset,
}


def latest(told: Mapping[bytes, bytes], rows: Rows) -> list[Change]:
    """Those of the rows that are not older than what is there; each begins with its time."""
    there = rows.get([*told])
    return [
        (key, value)
        for (key, value), old in zip(told.items(), there, strict=True)
        if old is None or unpack_int(value) >= unpack_int(old)
    ]


def fold_seen(event: ArtifactsInferred, columns: Columns, rows: Rows) -> list[Change]:
    """The features of media that the model was trained on, as references: of a batch, those with the smallest hash."""
    changes = fold_batch(event, rows) + names([event.model_id, *filter(None, columns.labels)], event.project_id, rows)
    if columns.features is None:
        return changes
    prefix = references_of(event)
    regions: Counter[bytes] = Counter()
    new: dict[bytes, bytes] = {}
    for medium, label, features in zip(columns.media, columns.labels, columns.features.astype("<f4"), strict=True):
        name = medium_bytes(medium)
        key = prefix + name + regions[name].to_bytes(4, "big")
        regions[name] += 1
        new[key] = number_of(label).to_bytes(HASH_BYTES, "little") + features.tobytes()
    there = [key for key, _ in rows.scan(prefix)]
    largest = max(2, min(REFERENCES, REFERENCE_NUMBERS // columns.features.shape[1]))
    kept = set(sorted({*there, *new})[:largest])
    changes += [(key, None) for key in there if key not in kept]
    return changes + [(key, value) for key, value in new.items() if key in kept]


def references(event: ArtifactsInferred, rows: Rows) -> Array | None:
    """The seen features of the batch that an unseen chunk belongs to, (rows, D); none if it brought none.

    Rows of another length than the first are left out.
    """
    values = [value for _, value in rows.scan(references_of(event))]
    if not values:
        return None
    features = [value[HASH_BYTES:] for value in values if len(value) == len(values[0])]
    return np.frombuffer(b"".join(features), "<f4").reshape(len(features), -1).astype(np.float64)


def fold_unseen(event: ArtifactsInferred, scored: Scored, rows: Rows) -> list[Change]:
    """A score row for each medium: the batch gets a slot, beside those that count until it is complete."""
    blind = [medium for medium in dict.fromkeys(event.no_prediction) if medium not in scored.labels]
    media, told = [*scored.labels, *blind], len(scored.labels)
    new = np.full(len(media), EMPTY)
    new["model"], new["batch"], new["at"] = number_of(event.model_id), number_of(event.batch_id), event.timestamp
    new["label"][:told] = [*map(number_of, scored.labels.values())]
    for name in UTILITIES:
        new[name][:told] = np.minimum(scored.utilities[name], LARGEST)

    prefix = prefix_of(event.project_id, Kind.SCORE) + hashed(event.task_id)
    keys = [prefix + medium_bytes(medium) for medium in media]
    nothing = np.full(SLOTS, EMPTY).tobytes()
    slots = np.frombuffer(b"".join(value or nothing for value in rows.get(keys)), SCORE).reshape(-1, SLOTS).copy()
    every = np.arange(len(media))
    place, better, again = slot_of(new, slots, complete(slots, event, rows))
    # What another chunk of the batch said of a medium is more than that nothing was found in it.
    better &= ~(again & (every >= told))
    slots[every[better], place[better]] = new[better]
    changed: list[Change] = [(keys[i], slots[i].tobytes()) for i in np.flatnonzero(better)]
    labels = filter(None, scored.labels.values())
    return [*names([event.model_id, *labels], event.project_id, rows), *changed, *fold_batch(event, rows)]


def fold_batch(event: ArtifactsInferred, rows: Rows) -> list[Change]:
    """That a chunk has come; if it completes its batch, references of earlier batches of the task go."""
    task, batch = prefix_of(event.project_id, Kind.BATCH) + hashed(event.task_id), batch_bytes(event)
    [told] = rows.get([task + batch])
    before = BatchRow(event.timestamp, -1, 0) if told is None else BatchRow.unpack(told)
    after = BatchRow(
        max(before.at, event.timestamp),
        event.chunk + 1 if event.last else before.chunks,
        before.here | 1 << event.chunk,
    )
    changes: list[Change] = [(task + batch, after.pack())]
    if after.complete and not before.complete:
        earlier = {key[len(task) :] for key, value in rows.scan(task) if BatchRow.unpack(value).at < after.at} - {batch}
        prefix = prefix_of(event.project_id, Kind.REFERENCE) + hashed(event.task_id)
        gone = (key for each in sorted(earlier) for key, _ in rows.scan(prefix + each))
        changes += [(key, None) for key in islice(gone, SWEPT)]
    return changes


def batch_bytes(event: ArtifactsInferred) -> bytes:
    """What stands for a batch in a key, after its task."""
    return hashed(event.model_id) + hashed(event.batch_id)


def references_of(event: ArtifactsInferred) -> bytes:
    """What the keys of a batch's references begin with."""
    return prefix_of(event.project_id, Kind.REFERENCE) + hashed(event.task_id) + batch_bytes(event)


def names(texts: Iterable[str], project: str, rows: Rows) -> list[Change]:
    """Rows that spell out hashes, where they are not there yet."""
    keys = {prefix_of(project, Kind.NAME) + hashed(text): text for text in texts}
    there = rows.get([*keys])
    return [(key, text.encode()) for (key, text), row in zip(keys.items(), there, strict=True) if row is None]
