"""Parameters of notebooks and configurations, checked by name and type: papermill checks neither."""

import ast
import inspect
import sys
from pathlib import Path
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
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def check_whole(name: str, value: int, least: int = 0) -> None:
    """Refuse what is no whole number, or less than the least.

    >>> check_whole("seed", -1)
    Traceback (most recent call last):
    ValueError: seed is -1; it takes a whole number of at least 0
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} is {value!r}; it takes a whole number of at least {least}")


def check_parameters(namespace: dict) -> None:
    """Refuse a notebook's parameters that are unknown or of the wrong type; called right after their cell.

    The annotated assignments of the `parameters` cell say which there are. What papermill injects lands beside them,
    also under a name that the notebook has never heard of.

    Args:
        namespace: the notebook's `globals()`.

    Raises:
        ValueError: an unknown name, or a value that is not of its annotation's type.
    """
    declared = inspect.get_annotations(sys.modules[namespace["__name__"]])
    literals = (bool, int, float, str, list, tuple, dict, type(None))
    ours = {"In", "Out"} | declared.keys()
    for name, value in namespace.items():
        if isinstance(value, literals) and not name.startswith("_") and name not in ours:
            raise ValueError(f"{name} is no parameter of this notebook; it takes {', '.join(declared)}")
    for name, annotation in declared.items():
        check_type(name, namespace[name], annotation)


def project_root() -> Path:
    """The folder of the clone that the current folder lies in, or else the current folder.

    papermill runs a notebook from where it was launched, nbval and JupyterLab from the notebook's own folder.
    """
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "mmlib" / "__init__.py").exists()), here)
