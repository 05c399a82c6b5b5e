"""Command-line options from the fields of a dataclass: one option `--field-name` for each field."""

import argparse
import dataclasses
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from mmlib._checks import nearest


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage, and with the option that a wrong one resembles."""

    def parse_args(self, args: Sequence[str] | None = None) -> argparse.Namespace:
        given, unknown = self.parse_known_args(args)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            self.error(f"unrecognized arguments: {' '.join(unknown)}{nearest(unknown[0].partition('=')[0], flags)}")
        return given

    def error(self, message: str) -> typing.NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def add_options(parser: argparse.ArgumentParser, settings: type) -> None:
    """Add an option for each field of a dataclass, explained by the `Args` of its docstring.

    Text is taken as it is, lists and dictionaries are JSON, and `None` is None where a field may be None.

    Args:
        parser: of the command line.
        settings: the dataclass.
    """
    group = parser.add_argument_group(f"{settings.__name__}", (settings.__doc__ or "").splitlines()[0])
    annotations, explanations = typing.get_type_hints(settings), _explanations(settings.__doc__ or "")
    for field in dataclasses.fields(settings):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        required = default is dataclasses.MISSING
        annotation = annotations[field.name]
        explanation = explanations.get(field.name, "").replace("%", "%%")
        group.add_argument(
            _flag(field.name),
            type=_parser_of(annotation),
            nargs="?" if annotation is bool else None,
            const=True if annotation is bool else None,
            default=argparse.SUPPRESS,
            required=required,
            metavar=_metavar(annotation),
            help=explanation if required else f"{explanation} (default: {_text(default)})",
        )


def parse_settings(namespace: argparse.Namespace, settings: type) -> Any:
    """Make the dataclass from the options that were given.

    Raises:
        TypeError, ValueError: the dataclass refuses a value.
    """
    given = vars(namespace)
    return settings(**{field.name: given[field.name] for field in dataclasses.fields(settings) if field.name in given})


def to_arguments(values: Mapping[str, object]) -> list[str]:
    """Write values by name as the arguments of a command line, which parses them back to the same.

    >>> to_arguments({"epochs": 3, "options": {"alpha": [0.5, 2.0]}, "batch_size": None})
    ['--epochs', '3', '--options', '{"alpha": [0.5, 2.0]}', '--batch-size', 'None']
    """
    return [part for name, value in values.items() for part in (_flag(name), _text(value))]


def non_negative(text: str) -> float:
    """Parse a number of a command line that is not below zero, such as minutes; it may be infinite.

    >>> non_negative("1.5"), non_negative("inf")
    (1.5, inf)
    """
    with suppress(ValueError):
        if (number := float(text)) >= 0:  # which NaN is not
            return number
    raise argparse.ArgumentTypeError(f"must be a number >= 0, got {text!r}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _text(value: object) -> str:
    return value if isinstance(value, str) else "None" if value is None else json.dumps(value)


def _metavar(annotation: object) -> str:
    kinds = [kind for kind in typing.get_args(annotation) or (annotation,) if kind is not types.NoneType]
    return "JSON" if kinds[0] in (list, dict) else kinds[0].__name__.upper()


def _parser_of(annotation: object) -> Callable[[str], object]:
    """Return the function that parses one value; argparse names the option and quotes what it refuses."""
    kinds = typing.get_args(annotation) or (annotation,)

    def parse(text: str) -> object:
        if text in ("None", "null") and types.NoneType in kinds:
            return None
        if str in kinds:
            return text
        with suppress(ValueError):
            value = kinds[0](text) if kinds[0] in (int, float) else json.loads(text)
            if isinstance(value, kinds):
                return value
        words = {types.NoneType: "None", bool: "true or false"}
        wanted = " or ".join(words.get(kind, kind.__name__) for kind in kinds)
        how = " in JSON" if kinds[0] in (list, dict) else ""
        raise argparse.ArgumentTypeError(f"must be {wanted}{how}, got {text!r}")

    return parse


def _explanations(docstring: str) -> dict[str, str]:
    """Return what the `Args` section of a docstring says of each argument; several may share a line."""
    # Python 3.13 takes a docstring's indent off when it compiles it, and earlier ones do not.
    section = re.search(r"\nArgs:\n(.*?)(?:\n\n|\Z)", inspect.cleandoc(docstring), re.DOTALL)
    entries = re.split(r"\n(?=    \w)", section[1]) if section else []
    explanations = {}
    for entry in entries:
        names, _, text = entry.strip().partition(": ")
        explanations |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return explanations
