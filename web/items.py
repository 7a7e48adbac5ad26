"""How media are shown: the items of an active set, in Geti's shape, each with our reasons."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import msgspec
import orjson

from streams.events import Pick, Task
from streams.media import Image, Medium, VideoFrame
from streams.times import iso
from tables.made import Place
from tables.pool import Pool
from tables.rows import HASH_BYTES, UploadRow
from web.answers import Item, Why

# What clients of Geti refuse an item without, where an upload did not tell it.
OF_AN_IMAGE = {"display_url": "", "height": 0, "width": 0}
OF_A_VIDEO = {**OF_AN_IMAGE, "duration": 0, "frame_count": 0, "frame_stride": 1, "frame_rate": 0}
OURS = ("media_type", "media_id", "dataset_storage_id", "frame_count", "frame_stride", "active_frames")


def medium_of(place: Place, upload: UploadRow) -> Medium:
    """The medium at a place, by the id that its upload told."""
    media_id = orjson.loads(upload.told)["media_id"]
    if not upload.frame_count:
        return Image(media_id)
    return VideoFrame(media_id, int.from_bytes(place.medium[HASH_BYTES:], "big"))


def pick(place: Place, upload: UploadRow) -> Pick:
    """The medium at a place, as it is granted."""
    return Pick(
        medium=medium_of(place, upload),
        rank=place.rank,
        score=place.score,
        uploaded_at=place.uploaded_at,
        choice=place.choice,
    )


def items(places: Sequence[Place], uploads: Mapping[bytes, UploadRow], pool: Pool, tasks: Sequence[Task]) -> list[Item]:
    """The items of an active set, best first; the frames of a video are one item, where the best of them stands.

    uploads: what was told of each image or video, by its 8 bytes.
    """
    return [item(group, uploads[whole], pool, tasks) for whole, group in together(places).items()]


def together(places: Iterable[Place]) -> dict[bytes, list[Place]]:
    """Places by their image or video."""
    found: dict[bytes, list[Place]] = {}
    for place in places:
        found.setdefault(place.medium[:HASH_BYTES], []).append(place)
    return found


def written(
    places: Sequence[Place],
    uploads: Callable[[Sequence[Place]], Mapping[bytes, UploadRow]],
    pool: Pool,
    tasks: Sequence[Task],
    kept: dict[bytes, tuple[bytes, bytes]],
) -> tuple[bytes, bytes]:
    """The same in JSON, and what is another whenever that is, to be hashed in its place.

    uploads: reads what was told of some. kept: images that were written before, without their rank and choice, and
    are the same still, with hashes; more are put there.
    """
    new = [place for place in places if place.medium not in kept]
    told = uploads(new)
    for place in new:
        upload = told[place.medium[:HASH_BYTES]]
        if not upload.frame_count:
            image: Any = item([place], upload, pool, tasks)
            del image["active_learning"]["rank"], image["active_learning"]["choice"]
            raw = orjson.dumps(image)[:-2]  # before the brackets of that member and of all
            kept[place.medium] = raw, blake2b(raw, digest_size=12).digest()
    parts, marks = list[bytes](), list[bytes]()
    for whole, group in together(places).items():
        if group[0].medium in kept:
            raw, mark = kept[group[0].medium]
            choice = b"null" if group[0].choice is None else msgspec.json.encode(group[0].choice)
            rest = b',"rank":%d,"choice":%b}}' % (group[0].rank, choice)
            parts.append(raw + rest)
            marks += (mark, rest)
        else:
            parts.append(orjson.dumps(item(group, told[whole], pool, tasks)))
            marks.append(parts[-1])
    return b"[%b]" % b",".join(parts), b"".join(marks)


def item(places: Sequence[Place], upload: UploadRow, pool: Pool, tasks: Sequence[Task]) -> Item:
    """One image, or one video with the frames that were chosen."""
    told = orjson.loads(upload.told)
    best, video = places[0], upload.frame_count > 0
    given = told.get("media_information") or {}
    given = {name: value for name, value in given.items() if value is not None or name not in OF_A_VIDEO}
    shown: Any = {
        **{name: value for name, value in told.items() if name not in OURS},
        "id": told["media_id"],
        "dataset_id": told["dataset_storage_id"],
        "name": told.get("name") or told["media_id"],
        "type": told["media_type"],
        "upload_time": told.get("upload_time") or iso(upload.at),
        "media_information": {**(OF_A_VIDEO if video else OF_AN_IMAGE), **given},
        "thumbnail": told.get("thumbnail") or "",
        "annotation_state_per_task": [
            {"task_id": task.task_id, "state": pool.state(task.task_id, best.medium)} for task in tasks
        ],
        "active_learning": why(best),
    }
    if video:
        frames = [int.from_bytes(place.medium[HASH_BYTES:], "big") for place in places]
        shown["media_information"] |= {
            # Geti's client makes a frame's address of it, and takes what ends so.
            "display_url": shown["media_information"]["display_url"] or told["media_id"],
            "frame_count": upload.frame_count,
            "frame_stride": upload.frame_stride,
        }
        shown["active_frames"] = frames
        shown["active_learning"]["frames"] = [
            {"frame_index": frame, **why(place)} for frame, place in zip(frames, places, strict=True)
        ]
    made: Item = shown
    return made


def why(place: Place) -> Why:
    """Where a medium stands and why."""
    return {
        "score": place.score,
        "rank": place.rank,
        "tier": place.tier,
        "reasons": place.reasons,
        "choice": choice(place),
    }


def choice(place: Place) -> Any:
    """Why a medium is in a set; none if that is not known."""
    return None if place.choice is None else msgspec.to_builtins(place.choice)
