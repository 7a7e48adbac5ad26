from agents.pulse import Pulse


def test_a_worker_without_work_is_well_however_long_it_waits() -> None:
    pulse = Pulse(60)

    for now in (0, 100, 1000):
        pulse.beat(now, busy=False, done=7)
        assert not pulse.stalled


def test_a_worker_that_has_work_and_does_none_of_it_has_stalled_until_it_does_some() -> None:
    pulse = Pulse(60)
    pulse.beat(0, busy=True, done=7)
    pulse.beat(59, busy=True, done=7)
    assert not pulse.stalled

    pulse.beat(60, busy=True, done=7)
    assert pulse.stalled

    pulse.beat(61, busy=True, done=8)
    assert not pulse.stalled


def test_a_worker_that_works_slowly_is_well() -> None:
    pulse = Pulse(60)

    for now in range(0, 1000, 50):
        pulse.beat(now, busy=True, done=now)
        assert not pulse.stalled


def test_work_that_comes_after_a_pause_begins_a_time_of_its_own() -> None:
    pulse = Pulse(60)
    pulse.beat(0, busy=False, done=0)
    pulse.beat(100, busy=False, done=0)

    pulse.beat(101, busy=True, done=0)
    assert pulse.stalled_s == 1
