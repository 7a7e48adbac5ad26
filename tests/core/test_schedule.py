"""The schedule of the chaos comes from its seed alone."""

from tests.chaos.faults import FAULTS
from tests.chaos.schedule import by_chance, one_by_one


def test_a_seed_makes_the_same_schedule_each_time_and_another_seed_another_one() -> None:
    one, again, other = by_chance(7, 50, FAULTS), by_chance(7, 50, FAULTS), by_chance(8, 50, FAULTS)

    assert one == again != other


def test_by_chance_no_fault_is_left_out_but_those_that_take_long() -> None:
    kinds = {name for name, kind in FAULTS.items() if kind.weight}
    count = sum(kind.weight for kind in FAULTS.values())

    assert {each.fault for each in by_chance(1, count, FAULTS)} == kinds
    assert kinds < FAULTS.keys()


def test_one_by_one_each_fault_comes_once_and_waits_until_all_is_well() -> None:
    steps = one_by_one(1, [*FAULTS], FAULTS)

    assert [each.fault for each in steps] == [*FAULTS]
    assert all(each.well and not each.aside for each in steps)
