import asyncio

from tables.turns import Turns

LONG_S = 60.0


async def timed(turns: Turns) -> float:
    """How long work lets others go first."""
    began = asyncio.get_running_loop().time()
    await turns.after_others()
    return asyncio.get_running_loop().time() - began


async def test_work_goes_on_at_once_where_nobody_waits() -> None:
    turns = Turns(LONG_S)
    with turns.first():
        pass

    work = asyncio.ensure_future(turns.after_others())
    await asyncio.sleep(0)

    assert work.done()


async def test_work_lets_all_go_first_who_wait() -> None:
    turns = Turns(LONG_S)
    with turns.first():
        with turns.first():
            work = asyncio.ensure_future(turns.after_others())
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)
        assert not work.done()

    await asyncio.wait_for(work, LONG_S)


async def test_work_waits_no_longer_than_it_is_told() -> None:
    turns = Turns(0.05)
    with turns.first():
        assert 0.04 < await timed(turns) < LONG_S


async def test_work_that_has_waited_goes_on_for_as_long_whoever_waits() -> None:
    turns = Turns(0.2)
    with turns.first():
        waited = await timed(turns)
        at_once = asyncio.ensure_future(turns.after_others())
        await asyncio.sleep(0)
        assert at_once.done()

        await asyncio.sleep(1.2 * waited)
        assert await timed(turns) > 0.1
