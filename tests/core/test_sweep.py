from typing import Any

import pytest

from streams.media import Image, VideoFrame
from tables import sweep
from tables.removals import GOING
from tables.rows import SWEEPS, Kind, medium_bytes, prefix_of, project_of
from tables.sweep import Sweep
from tests.core.table import NOW, Table, chunk, picks

TASKS = [{"task_id": "t"}, {"task_id": "t2"}]
# What stays of a project that is gone: that it is, and what is small and may be needed for what comes late.
STAYING = {
    Kind.REMOVAL,
    Kind.LAST_REMOVAL,
    Kind.BATCH,
    Kind.NAME,
    Kind.RESET,
    Kind.REFERENCE,
    Kind.LEASE,
    Kind.LEASE_END,
}


async def told(project: str = "p", images: int = 3) -> Table:
    """A table with all kinds of rows of a project."""
    table = Table()
    await tell(table, NOW, project, images)
    return table


async def tell(table: Table, at: int, project: str = "p", images: int = 3) -> None:
    """All that can be told of a project, at one time."""
    about: dict[str, Any] = {"project_id": project, "timestamp": at}
    stored: dict[str, Any] = {**about, "dataset_storage_id": "s"}
    names = [f"m{n}" for n in range(images)]
    video = {"media_type": "video", "media_id": "v", "frame_count": 100, "frame_stride": 10}
    media = [{"media_type": "image", "media_id": each} for each in names]
    frames: list[dict[str, Any]] = [
        {"media_type": "video_frame", "media_id": "v", "frame_index": n} for n in (0, 7, 90)
    ]
    await table.hears("project_updates", **{**stored, "tasks": TASKS})
    await table.hears("media_uploads", media=[*media, video], **stored)
    for task in ("t", "t2"):
        await table.hears("model_activations", task_id=task, model_id="a", **about)
        await table.hears("inference_artifacts", **{**chunk("a", *names), **about, "task_id": task})
        of_frames = {**chunk("b", "x", "y", "z"), **about, "task_id": task, "media": frames}
        await table.hears("inference_artifacts", **of_frames)
        for frame in frames:
            await table.hears("annotation_updates", states={task: "none"}, **frame, **about)
    await table.hears("annotation_updates", media_id="m0", states={"t": "annotated"}, **about)
    half = {**chunk("a", "m1", subset="seen", last=False, labels=["l"]), **about, "batch_id": "half"}
    await table.hears("inference_artifacts", **half)
    granted = [*picks("m0", "m2"), {"medium": frames[1], "rank": 3, "score": 0.5}]
    suggested = [{**each, "uploaded_at": at} for each in granted]
    await table.hears("active_set_events", change="granted", request_id="r", media=suggested, **about)
    theirs: dict[str, Any] = {**about, "request_id": f"lease of {at}", "user_id": "u"}
    lent = [{**each, "uploaded_at": at} for each in picks("m1", "m3")]
    await table.hears("active_set_events", change="granted", media=lent, expires_at=at + 9, **theirs)
    skipped = [{"medium": lent[0]["medium"], "uploaded_at": at}]
    await table.hears("active_set_events", change="skipped", media=skipped, skip_for="me", **theirs)


def kinds(table: Table, project: str = "p") -> set[Kind]:
    return {Kind(key[len(prefix_of(project))]) for key in table if project_of(key) == project}


def about_medium(table: Table, whole: bytes) -> list[bytes]:
    return [key for key in table if whole in key and key[3] != Kind.REMOVAL]


async def test_of_a_project_that_is_gone_nothing_large_stays() -> None:
    table = await told()
    assert kinds(table) == {*GOING, *STAYING} - {Kind.REMOVAL, Kind.LAST_REMOVAL, Kind.RESET}

    await table.hears("project_deletions", timestamp=NOW + 1)
    table.sweep()

    assert kinds(table) <= STAYING
    assert not [*table.scan(SWEEPS)]


async def test_a_project_that_is_told_again_at_a_later_time_keeps_what_is_its_own() -> None:
    table, wanted = await told(), Table()
    await tell(table, NOW + 2)
    await tell(wanted, NOW + 2)

    await table.hears("project_deletions", timestamp=NOW + 1)
    table.sweep()

    alive = {key: value for key, value in table.items() if Kind(key[3]) not in STAYING}
    assert alive == {key: value for key, value in wanted.items() if Kind(key[3]) not in STAYING}


@pytest.mark.parametrize("medium", [Image("m0"), VideoFrame("v", 0)])
async def test_of_a_medium_that_is_gone_no_row_stays_and_all_rows_of_others(medium: Image | VideoFrame) -> None:
    table = await told()
    whole = medium_bytes(medium)[:8]
    others = {key: value for key, value in table.items() if whole not in key}
    media_type = "image" if isinstance(medium, Image) else "video"
    gone: dict[str, Any] = {
        "dataset_storage_id": "s",
        "media_type": media_type,
        "media_id": medium.media_id,
        "timestamp": NOW + 1,
    }

    await table.hears("media_deletions", **gone)
    table.sweep()

    left = dict(table)
    assert [Kind(key[3]) for key in left if whole in key] == [Kind.REMOVAL]
    assert {key: value for key, value in left.items() if whole not in key and key[3] != Kind.LAST_REMOVAL} == others


async def test_what_comes_late_of_something_gone_is_not_written_at_all() -> None:
    table = await told()
    await table.hears("project_deletions", timestamp=NOW + 1)
    table.sweep()
    before = kinds(table)

    await tell(table, NOW)

    assert kinds(table) == before


async def test_another_projects_rows_are_not_touched() -> None:
    table = await told()
    await tell(table, NOW, "other")
    others = {key: value for key, value in table.items() if project_of(key) == "other"}

    await table.hears("project_deletions", timestamp=NOW + 1)
    table.sweep()

    assert {key: value for key, value in table.items() if project_of(key) == "other"} == others


async def test_a_slice_looks_at_a_bounded_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "SLICE", 50)
    table = await told(images=200)
    await table.hears("project_deletions", timestamp=NOW + 1)
    [marker] = table.scan(SWEEPS)
    whole, slices = Sweep(*marker, table), []

    while not whole.done:
        changes = whole.next(table)
        slices.append(len(changes))
        table.take(changes)

    assert max(slices) <= 50 + 1
    assert sum(slices) > 600
    assert kinds(table) <= STAYING


async def test_a_project_that_goes_once_more_while_it_is_swept_is_swept_once_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweep, "SLICE", 50)
    table = await told(images=100)
    await table.hears("project_deletions", 0, timestamp=NOW + 1)
    [marker] = table.scan(SWEEPS)
    first = Sweep(*marker, table)
    for _ in range(20):
        table.take(first.next(table))

    await tell(table, NOW + 2, images=100)
    await table.hears("project_deletions", 1, timestamp=NOW + 3)
    while not first.done:
        table.take(first.next(table))
    assert len([*table.scan(SWEEPS)]) == 1
    table.sweep()

    assert kinds(table) <= STAYING
