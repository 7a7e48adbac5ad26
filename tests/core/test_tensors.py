import tracemalloc
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from streams.errors import MalformedEvent
from streams.tensors import Column, Nested, Tensor, array_of

ANY = (1, 2, 3, 4)
NUMBERS = [[[-0.5, 0.0, 1.0], [2.0, 1024.0, -2048.0]]]


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("<f2", "<f2"),
        ("<f4", "<f4"),
        ("<f8", "<f8"),
        (">f2", "<f2"),
        (">f4", "<f4"),
        (">f8", "<f8"),
        ("longdouble", "<f8"),
        ("int8", "<f8"),
        (">i2", "<f8"),
        ("uint64", "<f8"),
        ("bool", "<f8"),
        ("object", "<f8"),
    ],
)
def test_numbers_of_any_type_come_through(kind: str, sent: str) -> None:
    array = np.array([[0, 1, 1], [1, 0, 1]]).astype(kind)

    tensor = Tensor.of(array)
    found = array_of("features", tensor, axes=(2,))

    assert (tensor.dtype, tensor.shape) == (sent, [2, 3])
    assert found.dtype == np.float64
    assert found.tolist() == array.tolist()


@pytest.mark.parametrize("kind", ["<f2", "<f4", "<f8", ">f2", ">f4", ">f8"])
def test_fractions_and_what_is_not_finite_come_through(kind: str) -> None:
    array = np.array([1 / 3, -0.0, np.nan, np.inf, -np.inf, np.finfo(kind).max, np.finfo(kind).tiny]).astype(kind)

    found = array_of("own", Tensor.of(array), axes=(1,))

    assert np.array_equal(found, array.astype(np.float64), equal_nan=True)
    assert np.signbit(found[1])


@pytest.mark.parametrize(
    "view",
    [
        np.asfortranarray(NUMBERS),
        np.transpose(np.array(NUMBERS)),
        np.array(NUMBERS)[:, ::-1, ::2],
        np.broadcast_to(np.float32(0.5), (3, 2)),
        np.zeros((0, 5)),
    ],
    ids=["fortran", "transposed", "strided", "broadcast", "empty"],
)
def test_an_array_comes_through_however_it_lies_in_memory(view: NDArray[Any]) -> None:
    found = array_of("features", Tensor.of(view), axes=ANY)

    assert found.shape == view.shape
    assert found.tolist() == view.tolist()
    assert found.flags.c_contiguous


@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=4), data=st.data())
def test_lists_and_tensors_and_both_wire_forms_tell_the_same(shape: list[int], data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.floats(), min_size=(size := int(np.prod(shape))), max_size=size))
    array = np.array(numbers).reshape(shape)
    tensor = Tensor.of(array)

    found = [
        array_of("features", array.tolist(), axes=ANY),
        array_of("features", msgspec.json.decode(msgspec.json.encode(tensor), type=Tensor), axes=ANY),
        array_of("features", msgspec.msgpack.decode(msgspec.msgpack.encode(tensor), type=Tensor), axes=ANY),
    ]

    for each in found:
        np.testing.assert_array_equal(each, array)


def test_what_was_sent_is_little_endian_in_c_order() -> None:
    tensor = Tensor(dtype="<f2", shape=[2, 2], data=bytes.fromhex("003c 0040 0042 0044"))

    assert array_of("features", tensor, axes=(2,)).tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    ("shape", "size", "wanted"),
    [
        ([2, 3], 23, "features.data must have 24 bytes, as its shape [2, 3] of <f4 says, not 23"),
        ([2, 3], 25, "must have 24 bytes"),
        ([2, 3], 48, "must have 24 bytes"),
        ([1], 0, "must have 4 bytes"),
        ([0, 3], 4, "must have 0 bytes"),
    ],
)
def test_a_tensor_whose_bytes_do_not_fit_its_shape_is_refused(shape: list[int], size: int, wanted: str) -> None:
    with pytest.raises(MalformedEvent) as why:
        array_of("features", Tensor(dtype="<f4", shape=shape, data=bytes(size)), axes=ANY)

    assert wanted in str(why.value)


@pytest.mark.parametrize("shape", [[2**31 - 1], [2**31 - 1] * 2, [2**31 - 1] * 4, [2**16] * 4])
def test_a_huge_shape_is_refused_before_anything_is_allocated(shape: list[int]) -> None:
    tensor = Tensor(dtype="<f8", shape=shape, data=bytes(8))

    tracemalloc.start()
    try:
        with pytest.raises(MalformedEvent, match="features.data must have"):
            array_of("features", tensor, axes=ANY)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 100_000


@pytest.mark.parametrize(
    "ragged",
    [
        [[0.1, 0.2], [0.3]],
        [[0.1, 0.2], []],
        [[0.1, [0.2]]],
        [[0.1], [[0.2]]],
        [[[0.1, 0.2]], [[0.3]]],
        [[[0.1]], [[0.2], [0.3]]],
        [[[[0.1]]], [[0.2]]],
    ],
)
def test_lists_of_unequal_length_or_depth_are_refused(ragged: Nested) -> None:
    with pytest.raises(MalformedEvent, match="probabilities must be an array: its lists are of unequal length or dep"):
        array_of("probabilities", ragged, axes=ANY)


@pytest.mark.parametrize(
    ("sent", "axes", "wanted"),
    [
        ([0.5], (2, 3), "field must have 2 or 3 axes, not 1"),
        ([[0.5]], (1,), "field must have 1 axes, not 2"),
        ([[[0.5]]], (2,), "field must have 2 axes, not 3"),
        ([[[[0.5]]]], (2, 3), "field must have 2 or 3 axes, not 4"),
        (Tensor(dtype="<f8", shape=[1], data=bytes(8)), (2, 3, 4), "field must have 2 or 3 or 4 axes, not 1"),
        (Tensor(dtype="<f8", shape=[1, 1, 1, 1], data=bytes(8)), (1,), "field must have 1 axes, not 4"),
    ],
)
def test_an_array_of_other_axes_is_refused(sent: Nested | Column, axes: tuple[int, ...], wanted: str) -> None:
    with pytest.raises(MalformedEvent) as why:
        array_of("field", sent, axes)

    assert str(why.value) == wanted


@pytest.mark.parametrize("shape", [[0, *[2**31 - 1] * 3], [2**31 - 1, 2**31 - 1, 2**31 - 1, 0]])
def test_axes_that_no_memory_holds_are_refused_though_there_are_no_bytes(shape: list[int]) -> None:
    with pytest.raises(MalformedEvent, match="features must have"):
        array_of("features", Tensor(dtype="<f8", shape=shape, data=b""), axes=(2, 3, 4))
