import asyncio
from collections.abc import Callable

import pytest

from streams.errors import UnknownProject
from tables import sweep
from tables.rows import SWEEPS, Kind, prefix_of
from tests.worker.conftest import GENERATION, HOME, NOW, PROJECT, TASK, House, a_member

IMAGES = [f"m{n}" for n in range(300)]
LARGE = (Kind.UPLOAD, Kind.SCORE, Kind.STATE, Kind.GRANT)


def left(house: House) -> int:
    """How many rows of the project there are, of the kinds of which there are many."""
    store = house.state.owned(HOME).store
    return sum(1 for kind in LARGE for _ in store.scan(prefix_of(PROJECT, kind)))


@pytest.fixture
async def full(house: House, monkeypatch: pytest.MonkeyPatch) -> House:
    """A project with many rows, and small slices."""
    monkeypatch.setattr(sweep, "SLICE", 30)
    await house.tells(*IMAGES)
    await house.infers(dict.fromkeys(IMAGES, 0.5))
    await house.suggested(limit=10)
    await house.says("annotation_updates", media_id="m0", states={TASK: "annotated"})
    return house


async def test_a_deleted_projects_rows_go_here_and_in_the_changelog(full: House) -> None:
    assert left(full) == 611

    await full.says("project_deletions", timestamp=NOW + 1)
    await full.settle()

    assert left(full) == 0
    last = dict(full.changelog.rows[HOME])
    large = [key for key in last if any(key.startswith(prefix_of(PROJECT, kind)) for kind in LARGE)]
    assert len(large) == 611
    assert {last[key] for key in large} == {None}


async def test_events_are_applied_between_the_slices(full: House) -> None:
    await full.says("project_deletions", timestamp=NOW + 1)

    await full.says("project_updates", dataset_storage_id="s", timestamp=NOW + 2)

    assert left(full) > 0
    assert await full.shown(None) == []
    await full.settle()
    assert left(full) == 0


async def test_who_takes_a_partition_over_goes_on_sweeping(full: House) -> None:
    await full.says("project_deletions", timestamp=NOW + 1)
    await full.state.leave()

    await full.state.take(range(8), GENERATION, a_member)
    assert left(full) > 0
    await full.settle()

    assert left(full) == 0
    assert not [*full.state.owned(HOME).store.scan(SWEEPS)]


async def test_a_partition_that_goes_in_the_middle_of_a_slice_is_left_at_once(
    full: House, acknowledge: Callable[[], None]
) -> None:
    acknowledge()
    await full.says("project_deletions", timestamp=NOW + 1)

    await asyncio.wait_for(full.state.leave(), 5)


async def test_what_prevents_sweeping_is_told_to_the_watch(full: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError("the disk")

    monkeypatch.setattr(sweep.Sweep, "next", broken)

    await full.says("project_deletions", timestamp=NOW + 1)
    await full.settle()

    assert isinstance(full.state.owned(HOME).failure, OSError)


async def test_the_ranking_of_a_project_goes_with_its_rows(full: House) -> None:
    await full.shown()
    await full.says("project_deletions", timestamp=NOW + 1)

    await full.settle()

    assert full.state.owned(HOME).rankings == {}
    with pytest.raises(UnknownProject):
        await full.shown()


async def test_an_empty_pool_is_answered_as_such_while_it_is_swept(full: House) -> None:
    media = [{"media_type": "image", "media_id": each} for each in IMAGES]
    await full.says("media_deletions", dataset_storage_id="s", media=media, timestamp=NOW + 1)

    assert await full.suggested() == []
    assert left(full) > 0
    await full.settle()
    assert left(full) == 0
