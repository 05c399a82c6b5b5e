"""Checks of arguments: what passes, and the words for what does not."""

import math
import re
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from mmlib._checks import (
    as_number,
    check_choice,
    check_int,
    check_logits,
    check_range,
    check_tensor,
    check_type,
    check_values,
)

INTEGERS = [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3), torch.tensor(3, dtype=torch.uint8)]
FLOATS = [0.5, np.float32(0.5), np.float64(0.5), np.array(0.5), torch.tensor(0.5), Fraction(1, 2)]
NO_NUMBERS = ["3", None, True, np.True_, torch.tensor(True), 3j, [3], np.array([3]), torch.tensor([3]), Decimal(3)]


@pytest.mark.parametrize(("value", "expected"), [(x, 3) for x in INTEGERS] + [(x, 0.5) for x in FLOATS])
def test_numbers_of_numpy_and_torch_are_numbers(value, expected):
    number = as_number(value)
    assert number == expected
    assert type(number) is type(expected)


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_others_are_not(value):
    assert as_number(value) is None
    with pytest.raises(TypeError, match=re.escape(f"steps must be an integer >= 0, got {value!r}")):
        check_int(steps=value)
    with pytest.raises(TypeError, match=re.escape(f"lr must be a finite number >= 0, got {value!r}")):
        check_range(lr=value)


@pytest.mark.parametrize("value", INTEGERS, ids=repr)
def test_integers_pass(value):
    check_int(3, steps=value, seed=5)
    check_range(0, 3, lr=value)
    with pytest.raises(ValueError, match=re.escape(f"steps must be an integer >= 4, got {value!r}")):
        check_int(4, seed=5, steps=value)


@pytest.mark.parametrize("value", FLOATS, ids=repr)
def test_a_float_is_a_number_but_no_integer(value):
    check_range(high=1, lr=value)
    with pytest.raises(TypeError, match="steps must be an integer"):
        check_int(steps=value)


def test_a_whole_float_is_no_integer():
    with pytest.raises(TypeError, match=re.escape("num_mixtures must be an integer >= 1, got 2.0")):
        check_int(1, num_mixtures=2.0)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf, -math.inf])
def test_numbers_out_of_range_are_refused(value):
    with pytest.raises(ValueError, match=re.escape(f"p must be a number from 0 to 1, got {value}")):
        check_range(high=1, p=value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1])
def test_a_range_without_an_end_is_finite(value):
    with pytest.raises(ValueError, match=re.escape(f"lr must be a finite number >= 0, got {value}")):
        check_range(lr=value)


def test_both_ends_belong_to_a_range():
    check_range(0.5, 2.0, low_end=0.5, high_end=2.0)


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (np.int64(3), int, 3),
        (torch.tensor(3), int | None, 3),
        (None, int | None, None),
        (1, float, 1),
        (np.float32(0.5), float | None, 0.5),
        (np.True_, bool, True),
        ("x", str | None, "x"),
        ({"a": 1}, dict, {"a": 1}),
    ],
)
def test_a_value_of_its_type_is_returned_as_python_has_it(value, annotation, expected):
    found = check_type("option", value, annotation)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "annotation", "wanted"),
    [
        ("ten", int, "int"),
        (1.0, int, "int"),
        (True, int, "int"),
        (True, float | None, "float or None"),
        (torch.tensor(True), float, "float"),
        (1, bool, "bool"),
        (3, str | None, "str or None"),
    ],
)
def test_a_value_of_another_type_is_refused(value, annotation, wanted):
    with pytest.raises(TypeError, match=re.escape(f"option must be {wanted}, got {value!r}")):
        check_type("option", value, annotation)


def test_choices():
    check_choice("reduction", "sum", ["mean", "sum"])
    for value in ("max", None, 3):
        with pytest.raises(ValueError, match=re.escape(f"reduction must be 'mean' or 'sum', got {value!r}")):
            check_choice("reduction", value, ("mean", "sum"))
    with pytest.raises(ValueError, match="layout must be 'tokens', got 'x'"):
        check_choice("layout", "x", ("tokens",))


def test_a_name_that_resembles_a_known_one_is_asked_for():
    with pytest.raises(ValueError, match=re.escape("got 'means'; did you mean mean?")):
        check_choice("reduction", "means", ("mean", "sum"))


@pytest.mark.parametrize(
    ("value", "shape", "kind"),
    [
        (torch.zeros(2, 3), None, ""),
        (torch.zeros(2, 3), (2, 3), "floating-point"),
        (torch.zeros(2, 3).bfloat16(), ("m", "c"), "floating-point"),
        (torch.zeros(2, dtype=torch.uint8), ("m",), ""),
        (torch.zeros(2, 3, dtype=torch.bool), (2, "r"), "boolean"),
        (torch.zeros(2, dtype=torch.int16), (2,), "integer"),
        (torch.zeros(0), None, "floating-point"),
    ],
)
def test_tensors_that_fit_pass(value, shape, kind):
    check_tensor("x", value, shape, kind)


@pytest.mark.parametrize(
    ("value", "shape", "kind", "error", "words"),
    [
        ([1.0], None, "", TypeError, "x must be a tensor, got list"),
        (torch.zeros(2, dtype=torch.cfloat), None, "", TypeError, "x must be a real tensor, got torch.complex64"),
        (
            torch.zeros(2).long(),
            None,
            "floating-point",
            TypeError,
            "x must be a floating-point tensor, got torch.int64",
        ),
        (torch.zeros(2), None, "integer", TypeError, "x must be an integer tensor, got torch.float32"),
        (torch.zeros(2).bool(), None, "integer", TypeError, "x must be an integer tensor, got torch.bool"),
        (
            torch.zeros(2, dtype=torch.cfloat),
            None,
            "integer",
            TypeError,
            "x must be an integer tensor, got torch.complex64",
        ),
        (torch.zeros(2), None, "boolean", TypeError, "x must be a boolean tensor, got torch.float32"),
        (torch.zeros(2, 3), (2, 4), "", ValueError, "x must have shape (2, 4), got (2, 3)?"),
        (torch.zeros(2, 3), (2,), "", ValueError, "x must have shape (2,), got (2, 3)?"),
        (torch.zeros(2), (2, 3), "", ValueError, "x must have shape (2, 3), got (2,)?"),
        (torch.zeros(2, 0), ("n", "c"), "", ValueError, "x must have shape (n, c), each at least 1, got (2, 0)?"),
        (torch.zeros(0, 3), ("n", 3), "", ValueError, "x must have shape (n, 3), each at least 1, got (0, 3)?"),
        (torch.zeros(0, 3), ("m", 3), "", ValueError, "x must have at least one example, got shape (0, 3)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(value, shape, kind, error, words):
    with pytest.raises(error, match=f"^{re.escape(words)}$"):
        check_tensor("x", value, shape, kind, hint="?")


def test_without_a_hint_nothing_follows_the_shape():
    with pytest.raises(ValueError, match=r"^x must have shape \(3,\), got \(2,\)$"):
        check_tensor("x", torch.zeros(2), (3,))


def test_logits_are_named_and_maps_get_a_hint():
    check_logits(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"^logits must have shape \(m, c\), got \(2,\)"):
        check_logits(torch.zeros(2))
    with pytest.raises(TypeError, match=r"^logits must be a floating-point tensor, got torch\.int64"):
        check_logits(torch.zeros(2, 3).long())


def test_any_real_tensor_will_do_where_no_kind_is_named():
    with pytest.raises(TypeError, match=r"^z must be a real tensor, got torch\.complex64$"):
        check_tensor("z", torch.zeros(2, dtype=torch.complex64))


def test_values_are_read_on_the_cpu_only_and_there_may_be_none():
    check_values("targets", torch.empty(0, 3), high=1)
    check_values("targets", torch.full((2,), -1.0, device="meta"))
    check_values("targets", torch.tensor([0.0, 1.0]), high=1)
    with pytest.raises(ValueError, match=r"^targets must be a number from 0 to 1, got 1\.5$"):
        check_values("targets", torch.tensor([0.0, 1.5]), high=1)
    with pytest.raises(ValueError, match=r"^targets must be a finite number >= 0, got nan$"):
        check_values("targets", torch.tensor([0.0, math.nan]))
