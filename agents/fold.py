"""The fold: an event and the rows there are in, the rows that change out. Pure: no clock, no chance, no settings.

A fold reads only rows that its own topic wrote (and names, which are what they are), so topics may come in any order.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import msgspec
import numpy as np

from agents.score import Learnt, Scored
from agents.slots import complete_among, placed
from streams.artifacts import Columns
from streams.events import (
    AnnotationUpdated,
    ArtifactsInferred,
    Event,
    Granted,
    MediaDeleted,
    ModelActivated,
    Pick,
    ProjectDeleted,
    ProjectUpdated,
    Released,
    Renewed,
    Reset,
    Skipped,
    Uploads,
)
from streams.media import Video
from streams.record import Heard
from tables.arrays import each_bytes
from tables.leases import LeaseRow, end_key, holder_of, lease_key, lease_of, leased
from tables.rows import (
    FOREVER,
    GRANT,
    LABEL,
    SKIP,
    SKIPS,
    STATE,
    STATES,
    ActivationRow,
    BatchRow,
    Change,
    Kind,
    Rows,
    UploadRow,
    hashed,
    heads,
    live,
    medium_bytes,
    number_of,
    pack_int,
    prefix_of,
    sweep_of,
    unpack_int,
    whole_bytes,
)
from tables.slots import EMPTY, NOTHING_FOUND, pairs, slot_values, slots_of

REFERENCES = 1000  # seen rows that are kept of a batch,
REFERENCE_NUMBERS = 4_000_000  # fewer of long ones: a PCA needs several times this memory
LARGEST = np.finfo(np.float64).max  # utility that a row can hold
SILENT_MS = 24 * 3600 * 1000  # after which nothing more is expected of a batch
SWEPT = 10_000  # rows that one event deletes at most


def fold(event: Event, rows: Rows, heard: Heard) -> list[Change]:
    """The rows that an event changes; those of artifacts are `fold_seen` and `fold_unseen`.

    heard: where the event stands in its topic decides between grants.
    """
    changes: list[Change] = FOLDS[type(event)](event, rows, heard)
    return changes


def fold_project(event: ProjectUpdated, rows: Rows, _: Heard) -> list[Change]:
    """The project as it is told; of two, the later timestamp wins, among equals the log's order. So everywhere here."""
    told = pack_int(event.timestamp) + msgspec.json.encode(event)
    return latest({prefix_of(event.project_id, Kind.PROJECT): told}, rows)


def fold_project_deletion(event: ProjectDeleted, rows: Rows, heard: Heard) -> list[Change]:
    """When the project went: what was told before is invisible from now on, and swept."""
    changes = latest({prefix_of(event.project_id, Kind.REMOVAL): pack_int(event.timestamp)}, rows)
    return [*changes, (sweep_of(event.project_id), pack_int(heard.offset))] if changes else []


def fold_uploads(event: Uploads, rows: Rows, _: Heard) -> list[Change]:
    """A row for each image or video; its frames are implied."""
    prefix = prefix_of(event.project_id, Kind.UPLOAD)
    return latest(
        {
            prefix + whole_bytes(each.medium): UploadRow(
                event.timestamp, each.frame_count, each.frame_stride, number_of(event.dataset_storage_id), each.told
            ).pack()
            for each in event.uploads
        },
        rows,
    )


def fold_deletion(event: MediaDeleted, rows: Rows, heard: Heard) -> list[Change]:
    """When each medium went."""
    removal, at = prefix_of(event.project_id, Kind.REMOVAL), pack_int(event.timestamp)
    going = {removal + whole_bytes(medium): isinstance(medium, Video) for medium in event.which()}
    changes = latest(dict.fromkeys(going, at), rows)
    if not changes:
        return []
    swept = b"".join(key[len(removal) :] + bytes([going[key]]) for key, _ in changes)
    last = latest({prefix_of(event.project_id, Kind.LAST_REMOVAL): at}, rows)
    return [*changes, *last, (sweep_of(event.project_id, heard.offset), swept)]


def fold_annotation(event: AnnotationUpdated, rows: Rows, _: Heard) -> list[Change]:
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


def fold_activation(event: ModelActivated, rows: Rows, _: Heard) -> list[Change]:
    """The active model of its task."""
    key = prefix_of(event.project_id, Kind.ACTIVATION) + hashed(event.task_id)
    return latest({key: ActivationRow(event.timestamp, event.model_id).pack()}, rows)


def fold_grant(event: Granted, rows: Rows, heard: Heard) -> list[Change]:
    """The media that nobody holds become the asker's: the log alone decides, the first live holder keeps a medium.

    Live is what had not run out when the event was published, and was not swept away by a reset. Where both tell of
    which upload of a medium they are, the grant of a later one ends that of an earlier one: in between it was deleted.
    A lease is remembered with what it asked for; its request, if it comes once more, gets nothing.
    """
    if event.expires_at is not None:
        before = lease_of(rows, event.project_id, event.request_id)
        if before is not None and event.attempt <= before.told.attempt:
            return []
    prefix = prefix_of(event.project_id, Kind.GRANT)
    keys = [prefix + medium_bytes(pick.medium) for pick in event.media]
    [last] = rows.get([prefix_of(event.project_id, Kind.RESET)])
    reset = -1 if last is None else unpack_int(last)
    until = FOREVER if event.expires_at is None else event.expires_at
    holder = holder_of(event.request_id, event.attempt)
    changes: dict[bytes, bytes | None] = {}
    for pick, key, row in zip(event.media, keys, rows.get(keys), strict=True):
        held = np.frombuffer(changes.get(key, row) or b"", GRANT)
        uploaded_at, told = uploaded(event, pick), pick.uploaded_at is not None
        both = held["told"] & told
        later, earlier = both & (held["uploaded_at"] < uploaded_at), both & (held["uploaded_at"] > uploaded_at)
        if (later | ~earlier & ~live(held, reset, event.timestamp)).all():
            changes[key] = np.array((heard.offset, uploaded_at, told, until, holder), GRANT).tobytes()
    if event.expires_at is not None:
        changes.update(leased(event, event.expires_at, heard.offset, rows))
    return [*changes.items()]


def fold_renewal(event: Renewed, rows: Rows, heard: Heard) -> list[Change]:
    """The lease, and what is left of it, ends at another time; nothing, if it is over or another user's."""
    lease = live_lease(event, rows)
    if lease is None:
        return []
    grants = [(key, row.copy()) for key, row in held_by(lease, lease.told.media, event.project_id, rows)]
    for _, row in grants:
        row["until"] = event.expires_at
    renewed = lease._replace(expires_at=event.expires_at, offset=heard.offset)
    return [
        (lease_key(event.project_id, event.request_id), renewed.pack()),
        (end_key(event.project_id, event.expires_at, event.request_id), b""),
        *((key, row.tobytes()) for key, row in grants),
    ]


def fold_release(event: Released, rows: Rows, heard: Heard) -> list[Change]:
    """Nobody has the media of the lease any more; nothing, if it is over or another user's."""
    lease = live_lease(event, rows)
    if lease is None:
        return []
    return given_back(lease, lease.told.media, event, rows, heard)


def fold_skip(event: Skipped, rows: Rows, heard: Heard) -> list[Change]:
    """Those of the media that are in the lease go back, with a row each that says whom they are for."""
    lease = live_lease(event, rows)
    if lease is None:
        return []
    skipped = {each.medium for each in event.media}
    gone = [pick for pick in lease.told.media if pick.medium in skipped]
    there = {pick.medium for pick in gone}
    prefix, user = prefix_of(event.project_id, Kind.SKIP), hashed(event.user_id)
    told = {
        prefix + medium_bytes(each.medium) + user: np.array(
            (each.uploaded_at, SKIPS.index(event.skip_for)), SKIP
        ).tobytes()
        for each in event.media
        if each.medium in there
    }
    return [*given_back(lease, gone, event, rows, heard), *latest(told, rows)]


def given_back(lease: LeaseRow, gone: list[Pick], event: Released | Skipped, rows: Rows, heard: Heard) -> list[Change]:
    """The lease without some of its media, and their grants go that are the lease's still."""
    going = {pick.medium for pick in gone}
    left = [pick for pick in lease.told.media if pick.medium not in going]
    return [
        (lease_key(event.project_id, event.request_id), lease.left_with(left, heard.offset).pack()),
        *((key, None) for key, _ in held_by(lease, gone, event.project_id, rows)),
    ]


def live_lease(event: Renewed | Released | Skipped, rows: Rows) -> LeaseRow | None:
    """The lease that an event names, if it was its user's when the event was published, and not over."""
    lease = lease_of(rows, event.project_id, event.request_id)
    theirs = lease is not None and lease.told.user_id == event.user_id and not lease.over(event.timestamp)
    return lease if theirs else None


def held_by(lease: LeaseRow, media: list[Pick], project: str, rows: Rows) -> Iterator[tuple[bytes, Any]]:
    """The grants of media that are the lease's still."""
    keys = [prefix_of(project, Kind.GRANT) + medium_bytes(pick.medium) for pick in media]
    for key, row in zip(keys, rows.get(keys), strict=True):
        grant = np.frombuffer(row or b"", GRANT)
        if (grant["holder"] == lease.holder).any():
            yield key, grant


def uploaded(event: Granted, pick: Pick) -> int:
    """Which upload of a medium a grant is of."""
    return event.timestamp if pick.uploaded_at is None else pick.uploaded_at


def fold_reset(event: Reset, _: Rows, heard: Heard) -> list[Change]:
    """Where the last reset stands in the log."""
    return [(prefix_of(event.project_id, Kind.RESET), pack_int(heard.offset))]


FOLDS: Mapping[type[Event], Any] = {
    ProjectUpdated: fold_project,
    ProjectDeleted: fold_project_deletion,
    Uploads: fold_uploads,
    MediaDeleted: fold_deletion,
    AnnotationUpdated: fold_annotation,
    ModelActivated: fold_activation,
    Granted: fold_grant,
    Renewed: fold_renewal,
    Released: fold_release,
    Skipped: fold_skip,
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


def fold_seen(event: ArtifactsInferred, columns: Columns, learnt: Learnt, rows: Rows, heard: Heard) -> list[Change]:
    """The features of media that the model was trained on, as references: of a batch, those with the smallest hash."""
    _, ended, changes = fold_batch(event, columns, rows, heard)
    changes += names([event.model_id, *filter(None, columns.labels)], event.project_id, rows)
    if event.labels is not None:  # what was not told was predicted
        prefix = prefix_of(event.project_id, Kind.LABEL) + hashed(event.task_id)
        told = np.empty(len(learnt.labels), LABEL)
        told["at"], told["label"] = event.timestamp, [*learnt.labels.values()]
        labelled = zip(learnt.labels, each_bytes(told), strict=True)
        changes += latest({prefix + medium: value for medium, value in labelled}, rows)
    if columns.features is None or ended:
        return changes
    prefix = references_of(event)
    new = {prefix + place: value for place, value in learnt.references.items()}
    there = [key for key, _ in rows.scan(prefix)]
    largest = max(2, min(REFERENCES, REFERENCE_NUMBERS // columns.features.shape[1]))
    kept = set(sorted({*there, *new})[:largest])
    changes += [(key, None) for key in there if key not in kept]
    return changes + [(key, value) for key, value in new.items() if key in kept]


def fold_unseen(event: ArtifactsInferred, columns: Columns, scored: Scored, rows: Rows, heard: Heard) -> list[Change]:
    """A score row for each medium: the batch gets a slot, beside those that count until it is complete."""
    batch, _, changes = fold_batch(event, columns, rows, heard)
    told, blind = len(scored.media), dict.fromkeys(map(medium_bytes, event.no_prediction))
    media = [*dict.fromkeys([*scored.media, *blind])]
    new = np.full(len(media), EMPTY)
    new["model"], new["batch"], new["at"] = number_of(event.model_id), number_of(event.batch_id), event.timestamp
    labels = {label: number_of(label) for label in {*scored.labels}}
    new["label"][:told] = [labels[label] for label in scored.labels]
    new["label"][told:] = NOTHING_FOUND
    for name, utility in scored.utilities.items():
        new[name][:told] = np.minimum(utility, LARGEST)
    new["sketch"][:told], new["scale"][:told] = scored.sketches.values, scored.sketches.scale
    for name, utility in scored.external.items():
        new["external"][:told, batch.names.index(number_of(name))] = utility

    prefix = prefix_of(event.project_id, Kind.SCORE) + hashed(event.task_id)
    keys = [prefix + each for each in media]
    values = rows.get(keys)
    if any(values):
        slots = slots_of(values)
        complete = complete_among(slots, prefix_of(event.project_id, Kind.BATCH) + hashed(event.task_id), rows)
        if batch.complete:
            complete = np.append(complete, pairs(new[:1]))
        after = slot_values(placed(new, slots, complete))
    else:  # the first batch: each has the first slot
        after = slot_values(new[:, np.newaxis])
    changes += [(key, value) for key, value, before in zip(keys, after, values, strict=True) if value != before]
    return changes + names([event.model_id, *filter(None, labels), *scored.external], event.project_id, rows)


def fold_batch(
    event: ArtifactsInferred, columns: Columns, rows: Rows, heard: Heard
) -> tuple[BatchRow, bool, list[Change]]:
    """The batch when a chunk has come, and whether it ends with that; a batch that is told once more ends once more.

    With it end its references, and those of batches of the task of which Kafka has had nothing for a day.

    Raises:
        MalformedEvent: the chunk does not fit to the batch.
    """
    task, batch = prefix_of(event.project_id, Kind.BATCH) + hashed(event.task_id), batch_bytes(event)
    [told] = rows.get([task + batch])
    before = BatchRow(heard.at) if told is None else BatchRow.unpack(told)
    after = before.with_chunk(
        heard.at,
        event.chunk,
        last=event.last,
        width=0 if columns.features is None or not columns.media else columns.features.shape[1],
        names=map(number_of, columns.utilities),
    )
    changes: list[Change] = [(task + batch, after.pack())]
    ended = after.complete and (event.last or not before.complete)
    if ended:
        prefix = prefix_of(event.project_id, Kind.REFERENCE) + hashed(event.task_id)
        others = [head[len(prefix) :] for head in heads(rows, prefix, len(batch))]
        told_of = zip(others, rows.get([task + each for each in others]), strict=True)
        silent = heard.at - SILENT_MS
        dead = {each for each, row in told_of if row is None or BatchRow.unpack(row).heard_at < silent}
        gone = (key for each in sorted(dead | {batch}) for key, _ in rows.scan(prefix + each))
        changes += [(key, None) for key in islice(gone, SWEPT)]
    return after, ended, changes


def batch_bytes(event: ArtifactsInferred) -> bytes:
    """What stands for a batch in a key, after its task."""
    return hashed(event.model_id) + hashed(event.batch_id)


def references_of(event: ArtifactsInferred) -> bytes:
    """What the keys of a batch's references begin with."""
    return prefix_of(event.project_id, Kind.REFERENCE) + hashed(event.task_id) + batch_bytes(event)


def names(texts: Iterable[str], project: str, rows: Rows) -> list[Change]:
    """Rows that spell out hashes, where they are not there yet."""
    prefix = prefix_of(project, Kind.NAME)
    keys = {prefix + hashed(text): text for text in dict.fromkeys(texts)}
    there = rows.get([*keys])
    return [(key, text.encode()) for (key, text), row in zip(keys.items(), there, strict=True) if row is None]
