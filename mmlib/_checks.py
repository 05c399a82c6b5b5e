"""Checks of arguments: `TypeError` for a wrong type, `ValueError` for a wrong value, each naming the argument."""

import difflib
import math
import numbers
import operator
from collections.abc import Iterable
from types import UnionType
from typing import get_args

import torch
from torch import Tensor


def as_number(value: object) -> int | float | None:
    """Convert a number of Python, NumPy or torch (a tensor without dimensions) to an int or a float.

    Returns:
        The number, or None if the value is no number. A boolean is none.

    >>> import torch
    >>> as_number(torch.tensor(3)), as_number(2.5), as_number("2.5"), as_number(True)
    (3, 2.5, None, None)
    """
    if type(value) is int or type(value) is float:  # as nearly all are; to ask an abstract class takes longer
        return value
    value = _plain(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    return operator.index(value) if isinstance(value, numbers.Integral) else float(value)


def check_int(minimum: int = 0, **values: object) -> None:
    """Check that the values, given by name, are integers and not below the minimum.

    Raises:
        TypeError: a value is not an integer.
        ValueError: an integer is below the minimum.

    >>> check_int(1, num_mixtures=2.0)
    Traceback (most recent call last):
    TypeError: num_mixtures must be an integer >= 1, got 2.0
    """
    for name, value in values.items():
        number = as_number(value)
        is_integer = isinstance(number, int)
        if not is_integer or number < minimum:
            error = ValueError if is_integer else TypeError
            raise error(f"{name} must be an integer >= {minimum}, got {value!r}")


def check_range(low: float = 0, high: float = math.inf, **values: object) -> None:
    """Check that the values, given by name, are finite numbers from `low` to `high`, both included.

    Raises:
        TypeError: a value is not a number.
        ValueError: a number is out of range, infinite or NaN.

    >>> check_range(high=1, probability=2)
    Traceback (most recent call last):
    ValueError: probability must be a number from 0 to 1, got 2
    """
    for name, value in values.items():
        number = as_number(value)
        if number is None or not low <= number <= high or math.isinf(number):
            at_least = "a finite number" if low == -math.inf else f"a finite number >= {low}"
            wanted = at_least if high == math.inf else f"a number from {low} to {high}"
            error = TypeError if number is None else ValueError
            raise error(f"{name} must be {wanted}, got {value!r}")


def check_type(name: str, value: object, annotation: type | UnionType) -> object:
    """Check that a value has the annotated type; an integer serves as a float.

    Returns:
        The value; a number of NumPy or torch as one of Python.

    Raises:
        TypeError: the value has another type.

    >>> check_type("epochs", "ten", int | None)
    Traceback (most recent call last):
    TypeError: epochs must be int or None, got 'ten'
    """
    kinds = get_args(annotation) or (annotation,)
    if type(value) in kinds:
        return value
    plain = _plain(value)
    accepted = (*kinds, int) if float in kinds else kinds
    if not isinstance(plain, accepted) or (isinstance(plain, bool) and bool not in kinds):
        names = " or ".join("None" if kind is type(None) else getattr(kind, "__name__", str(kind)) for kind in kinds)
        raise TypeError(f"{name} must be {names}, got {value!r}")
    return plain


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Check that a value is one of the choices.

    Raises:
        ValueError: the value is none of them.

    >>> check_choice("reduction", "average", ("mean", "sum", "none"))
    Traceback (most recent call last):
    ValueError: reduction must be 'mean', 'sum' or 'none', got 'average'
    """
    choices = list(choices)
    if value not in choices:
        *others, last = map(repr, choices)
        wanted = f"{', '.join(others)} or {last}" if others else last
        raise ValueError(f"{name} must be {wanted}, got {value!r}{nearest(value, choices)}")


def nearest(wrong: object, known: Iterable[str]) -> str:
    """Ask, behind an error's words, for the known name that a wrong one resembles; return nothing where none does.

    >>> nearest("mixpu", ("mixup", "cutmix")), nearest("erm", ("mixup", "cutmix"))
    ('; did you mean mixup?', '')
    """
    close = difflib.get_close_matches(str(wrong), known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def check_tensor(
    name: str, value: object, shape: tuple[int | str, ...] | None = None, kind: str = "", hint: str = ""
) -> None:
    """Check that a value is a tensor of a shape and a kind of dtype.

    Args:
        name: the argument's name.
        value: its value.
        shape: sizes, or letters for sizes of at least 1.
        kind: "floating-point", "integer", "boolean", or "" for any but complex numbers.
        hint: what to add to the error of a wrong shape.

    Raises:
        TypeError: the value is not a tensor, or one of another kind.
        ValueError: the tensor has another shape.

    >>> check_tensor("mask", torch.ones(2, 3), (2, 3), "boolean")
    Traceback (most recent call last):
    TypeError: mask must be a boolean tensor, got torch.float32
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    own = "floating-point" if value.is_floating_point() else "boolean" if value.dtype == torch.bool else "integer"
    if value.is_complex() or kind not in ("", own):
        raise TypeError(f"{name} must be a{'n' * (kind == 'integer')} {kind or 'real'} tensor, got {value.dtype}")
    if shape is None:
        return
    got = tuple(value.shape)
    if len(got) == len(shape) and shape[0] == "m" and not got[0]:
        raise ValueError(f"{name} must have at least one example, got shape {got}")
    matches = (size == wanted or (isinstance(wanted, str) and size > 0) for size, wanted in zip(got, shape))
    if len(got) != len(shape) or not all(matches):
        wanted = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
        at_least = ", each at least 1" if len(got) == len(shape) and 0 in got else ""
        raise ValueError(f"{name} must have shape ({wanted}){at_least}, got {got}{hint}")


def can_read(tensor: Tensor) -> bool:
    """Tell whether Python may look at a tensor's values. A GPU's it would have to wait for, a compiler has none yet."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def check_values(name: str, value: Tensor, low: float = 0, high: float = math.inf) -> None:
    """Check the range of a tensor's values if they can be read."""
    if can_read(value) and value.numel():
        for end in value.detach().aminmax():
            check_range(low, high, **{name: end.item()})


def check_index_range(name: str, value: Tensor, count: int, of: str) -> None:
    """Refuse indices that are not among `count`, `of` naming what there are so many of.

    The values are read: where a GPU must not be waited for, `can_read` is to be asked first.

    >>> check_index_range("labels", torch.tensor([0, 3]), 3, "classes")
    Traceback (most recent call last):
    ValueError: labels must be from 0 to 2 for 3 classes, got 3
    """
    low, high = (end.item() for end in value.aminmax())
    if low < 0 or high >= count:
        raise ValueError(f"{name} must be from 0 to {count - 1} for {count} {of}, got {low if low < 0 else high}")


def check_logits(logits: Tensor) -> None:
    """Refuse any logits but floating-point ones of examples, (m, c)."""
    hint = "; dense_mixed_cross_entropy takes those of a map, (m, r, c)"
    if isinstance(logits, Tensor) and logits.ndim == 1:
        hint = "; give one logit per example as (m, 1)"
    check_tensor("logits", logits, ("m", "c"), "floating-point", hint)


def _plain(value):
    """Unwrap a scalar of NumPy or a tensor without dimensions; other values stay as they are."""
    return value.item() if getattr(value, "ndim", None) == 0 else value
