from types import SimpleNamespace
from typing import Any

import pytest

from agents.watch import Watch
from tests.worker.conftest import House


class Clock:
    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.mark.parametrize(("whose", "stalled"), [("http://another:6066", False), (None, True)])
async def test_a_worker_does_not_stay_without_partitions_that_nobody_was_given(
    house: House, monkeypatch: pytest.MonkeyPatch, whose: str | None, stalled: bool
) -> None:
    await house.state.leave()
    clock = Clock()
    monkeypatch.setattr("agents.watch.time", clock)
    app: Any = SimpleNamespace(
        owned=list, settled=lambda: True, unheard_s=lambda: 0.0, owner=lambda _: whose, through=lambda *_: 0
    )
    watch = Watch(app, house.settings, house.state, house.curator)

    for _ in range(house.settings.stall_s + 1):
        watch._look()
        clock.now_s += 1

    assert watch.stalled is stalled
