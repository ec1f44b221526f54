"""What own networks are called with: one line for each input, and how the arguments are put together."""

import numpy as np
import pytest

from stdc_parity.align.inputs import arrange, nest, places_of, read_input
from stdc_parity.converters.errors import UsageError


@pytest.mark.parametrize(
    ("line", "place", "shape", "dtype", "low", "high"),
    [
        ("1x3x8x8", "", (1, 3, 8, 8), "float32", -9, 9),
        ("x:2x3", "x", (2, 3), "float32", -9, 9),
        ("ids:2x16:int64:0..99", "ids", (2, 16), "int64", 0, 99),
        ("ids:2x160:int32:5..6", "ids", (2, 160), "int32", 5, 6),
        ("4x4:0..1", "", (4, 4), "float32", 0, 1),
        ("4x4:float64:-2.5..-1", "", (4, 4), "float32", -2.5, -1),
        ("mask:2x16:bool", "mask", (2, 16), "bool", 0, 1),
        ("batch.image:1x3", "batch.image", (1, 3), "float32", -9, 9),
        ("0.image:1x3", "0.image", (1, 3), "float32", -9, 9),
        ("t:scalar:int64:3..3", "t", (), "int64", 3, 3),
        ("7", "", (7,), "float32", -9, 9),
    ],
)
def test_a_line_says_place_shape_dtype_and_bounds(line, place, shape, dtype, low, high):
    found = read_input(line)
    drawn = found.draw(0, 0)
    assert (found.place, drawn.shape, str(drawn.dtype)) == (place, shape, dtype)
    assert low <= drawn.min() and drawn.max() <= high
    assert np.array_equal(drawn, read_input(line).draw(0, 0))
    if drawn.size > 8 and low < high:
        assert not np.array_equal(drawn, found.draw(1, 0)), "another seed gives other values"


@pytest.mark.parametrize(
    "line", ["", "x", "1x3x", "1x-3", "a:b:c", "1x3:int99", "1x3:0..", "1x3:int64:9..1", "a b:1x3", "9999999x999999"]
)
def test_a_line_that_says_nothing_is_a_message(line):
    with pytest.raises(UsageError, match="--input"):
        read_input(line)


def test_both_bounds_belong_to_whole_numbers():
    assert set(read_input("1000:int64:0..2").draw(0, 0)) == {0, 1, 2}


def test_arguments_are_positional_by_number_and_by_name():
    lines = ["2x3", "1.image:1x3", "1.size:2:int64", "mask:2:bool"]
    places = places_of([read_input(line) for line in lines])
    assert arrange(places, "abcd") == (["a", {"image": "b", "size": "c"}], {"mask": "d"})
    assert arrange((), "ab") == (["a", "b"], {})
    with pytest.raises(UsageError, match="two inputs are for 'x'"):
        places_of([read_input("x:1"), read_input("x:2")])


@pytest.mark.parametrize(
    ("parts", "value"),
    [
        ({"": 1}, 1),
        ({"[0]": 1, "[1]": 2}, [1, 2]),
        ({"[1]": 2, "[0]": 1}, [1, 2]),
        ({"[0]": 1, "[2]": 3}, {"0": 1, "2": 3}),
        ({"[a][0]": 1, "[a][1]": 2, "[b]": 3}, {"a": [1, 2], "b": 3}),
    ],
)
def test_nested_values_come_back_from_their_places(parts, value):
    assert nest(parts) == value
