"""Arguments of the command line."""

import ast
from contextlib import suppress


def read_arguments(arguments: list[str], names: set[str]) -> dict[str, object]:
    """The values of a command's `name=value` arguments, Python literals or else text.

    Raises:
        ValueError: an unknown name, or an argument without a value.

    >>> read_arguments(["epochs=3", "method=erm"], {"epochs", "method"})
    {'epochs': 3, 'method': 'erm'}
    """
    values = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    for name in [a for a in arguments if "=" not in a] + sorted(values.keys() - names):
        raise ValueError(f"{name} is no parameter; they are {', '.join(sorted(names))}, each as name=value")
    return {name: _literal(value) for name, value in values.items()}


def _literal(text: str) -> object:
    with suppress(SyntaxError, ValueError):
        return ast.literal_eval(text)
    return text
