"""Checks of arguments, by name and type."""

import math
from types import UnionType


def check_type(name: str, value: object, annotation: type | UnionType) -> None:
    """Refuse a value that is not of the annotated type; a whole number serves as a float.

    >>> check_type("epochs", "ten", int)
    Traceback (most recent call last):
    ValueError: epochs is 'ten'; it takes int
    """
    wanted = getattr(annotation, "__args__", (annotation,))
    fits = isinstance(value, wanted) or (float in wanted and isinstance(value, int))
    if not fits or (isinstance(value, bool) and bool not in wanted):
        takes = " or ".join("None" if kind is type(None) else kind.__name__ for kind in wanted)
        raise ValueError(f"{name} is {value!r}; it takes {takes}")


def check_int(least: int = 0, **values: object) -> None:
    """Refuse what is no whole number, or less than the least.

    Args:
        values: by their names.

    Raises:
        ValueError: with the name, what it is and what it takes.

    >>> check_int(seed=-1)
    Traceback (most recent call last):
    ValueError: seed is -1; it takes a whole number of at least 0
    """
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} is {value!r}; it takes a whole number of at least {least}")


def check_range(least: float = 0, most: float = math.inf, **values: float) -> None:
    """Refuse what is no finite number from `least` to `most`.

    Args:
        values: by their names.

    Raises:
        ValueError: with the name, what it is and what it takes.

    >>> check_range(most=1, decay=2)
    Traceback (most recent call last):
    ValueError: decay is 2; it takes a number from 0 to 1
    """
    for name, value in values.items():
        if not isinstance(value, int | float) or not least <= value <= most or value == math.inf:
            takes = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
            raise ValueError(f"{name} is {value!r}; it takes a number {takes}")
