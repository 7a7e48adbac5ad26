import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tables.shelves import Fixed, Shelf

FORM = np.dtype([("number", "<i8")])
keys = st.sampled_from([bytes([n, 0, 9]) for n in range(6)] + [b"\x01\0\0", b"\0\0\0"])
values = st.integers(0, 99).map(lambda number: number.to_bytes(8, "little"))
steps = st.one_of(
    st.tuples(keys, st.one_of(st.none(), values)),
    st.sampled_from(["lend", "settle what is lent", "give back", "settle"]),
)


def rows(shelf: Shelf[Fixed]) -> dict[bytes, bytes]:
    """What stands in a shelf, in order."""
    block = shelf.settle()
    return dict(zip((key.ljust(3, b"\0") for key in block.keys.tolist()), map(bytes, block.values), strict=True))


@given(loaded=st.dictionaries(keys, values), told=st.lists(steps, max_size=20))
def test_a_shelf_has_what_a_dict_would_have_whenever_it_is_put_in_order_and_lent(
    loaded: dict[bytes, bytes], told: list[tuple[bytes, bytes | None] | str]
) -> None:
    shelf, wanted = Shelf(Fixed.none(3, FORM)), dict(sorted(loaded.items()))
    if loaded:
        shelf.load(np.array([*wanted], "S3"), [value + b"more" for value in wanted.values()])
        shelf.settle()
    lent, there = shelf.lent(), dict(wanted)

    for step in told:
        match step:
            case "lend":
                lent, there = shelf.lent(), dict(wanted)
            case "settle what is lent":
                assert rows(lent) == dict(sorted(there.items()))
            case "give back":
                shelf.given_back(lent)
            case "settle":
                shelf.settle()
            case (key, value):
                shelf.change(key, value)
                wanted.pop(key, None)
                if value is not None:
                    wanted[key] = value
        for each in (b"\x01\0\0", b"\0\0\0", b"\x03\0\x09"):
            changed = shelf.changed(each)
            assert (shelf.block.get(each) if changed is None else changed[0]) == wanted.get(each)

    assert rows(shelf) == dict(sorted(wanted.items()))


def test_what_is_loaded_counts_less_than_what_changed_meanwhile() -> None:
    shelf = Shelf(Fixed.none(1, FORM))
    shelf.change(b"a", None)
    shelf.change(b"b", bytes(8))

    shelf.load(np.array([b"a", b"b", b"c"]), [b"x" * 8] * 3)

    assert [bytes(each) for each in shelf.settle().values] == [bytes(8), b"x" * 8]
