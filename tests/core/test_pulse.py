from agents.pulse import Pulse


def test_a_worker_without_work_is_well_however_long_it_waits() -> None:
    pulse = Pulse(60)

    for now in range(0, 1000, 10):
        pulse.beat(now, busy=False, done=7)
        assert not pulse.stalled


def test_a_worker_that_has_work_and_does_none_of_it_has_stalled_until_it_does_some() -> None:
    pulse = Pulse(60)
    for now in range(0, 60, 10):
        pulse.beat(now, busy=True, done=7)
        assert not pulse.stalled

    pulse.beat(60, busy=True, done=7)
    assert pulse.stalled

    pulse.beat(61, busy=True, done=8)
    assert not pulse.stalled


def test_a_worker_that_works_slowly_is_well() -> None:
    pulse = Pulse(60)

    for now in range(0, 1000, 10):
        pulse.beat(now, busy=True, done=now // 50)
        assert not pulse.stalled


def test_work_that_comes_after_a_pause_begins_a_time_of_its_own() -> None:
    pulse = Pulse(60)
    for now in range(0, 100, 10):
        pulse.beat(now, busy=False, done=0)

    pulse.beat(100, busy=True, done=0)
    pulse.beat(101, busy=True, done=0)
    assert pulse.stalled_s == 1 + 10


def test_a_worker_that_was_frozen_or_asleep_has_not_stalled() -> None:
    pulse = Pulse(60)
    pulse.beat(0, busy=True, done=0)

    pulse.beat(3600, busy=True, done=0)
    assert not pulse.stalled
