"""The first steps of every notebook: check its parameters, which papermill does not, and draw pictures inline."""

import ast
import functools
import inspect
import operator
import sys
import typing
from pathlib import Path
from typing import NamedTuple

from mmlib._checks import check_type, nearest

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure


class Parameter(NamedTuple):
    """A parameter of a notebook: its name, the value it has, and what the `parameters` cell says of it."""

    name: str
    value: object
    explanation: str


def setup(namespace: dict) -> None:
    """Check a notebook's parameters and let its figures appear in it; called right after the `parameters` cell.

    Figures get the book's look, `plots.LOOK`, and twice the pixels for screens that have them.

    Args:
        namespace: the notebook's `globals()`.

    Raises:
        ValueError: papermill injected a name that is not a parameter.
        TypeError: a parameter has a value of the wrong type.
    """
    check_parameters(namespace)
    _draw_inline()


def check_parameters(namespace: dict) -> None:
    """Refuse parameters that are unknown or of the wrong type.

    The annotated assignments of the `parameters` cell declare a notebook's parameters. papermill injects its values in
    a cell of its own, under any name that it is given. Only that cell is searched for unknown names: a kernel that has
    run before holds the notebook's own variables too.

    Args:
        namespace: the notebook's `globals()`.

    Raises:
        ValueError: papermill injected a name that is not a parameter.
        TypeError: a parameter has a value of the wrong type.
    """
    declared = inspect.get_annotations(sys.modules[namespace["__name__"]])
    for name in _injected(namespace.get("In", [])):
        if name not in declared:
            known = ", ".join(declared)
            raise ValueError(f"{name} is not a parameter of this notebook; it takes {known}{nearest(name, declared)}")
    for name, annotation in declared.items():
        kinds = typing.get_args(annotation) or (annotation,)  # of Optional[int], int and None
        check_type(name, namespace[name], functools.reduce(operator.or_, kinds))


def parameters(namespace: dict) -> list[Parameter]:
    """List a notebook's parameters, in the order of their cell.

    Args:
        namespace: the notebook's `globals()`.
    """
    declared = inspect.get_annotations(sys.modules[namespace["__name__"]])
    said = {}
    for line in "\n".join(namespace.get("In", [])).splitlines():
        name, _, rest = line.partition(":")
        if name in declared and "  # " in rest:
            said[name] = rest.rpartition("  # ")[2]
    return [Parameter(name, namespace[name], said.get(name, "")) for name in declared]


def _injected(cells: list[str]) -> list[str]:
    """Names that papermill's cell assigns, the latest one where it ran several times; none without such a cell.

    Args:
        cells: the sources of all cells that the kernel has run, IPython's `In`.
    """
    source = next((cell for cell in reversed(cells) if cell.startswith("# Parameters\n")), "")
    assignments = (node for node in ast.parse(source).body if isinstance(node, ast.Assign))
    return [target.id for node in assignments for target in node.targets]


def _draw_inline() -> None:
    """In a kernel, select the backend that puts figures into the notebook, whatever MPLBACKEND says."""
    from IPython import get_ipython

    shell = get_ipython()
    if shell is not None and hasattr(shell, "kernel"):
        shell.run_line_magic("matplotlib", "inline")

        import matplotlib.pyplot as plt

        from mmbook.plots import LOOK

        plt.rcParams.update(LOOK)
        shell.display_formatter.formatters["image/png"].for_type(plt.Figure, _sharp_png)


def _sharp_png(figure: "Figure") -> tuple[str, dict]:
    """A figure with twice the pixels, and its width; a height beside it would distort it where a column is narrower."""
    from IPython.core.pylabtools import retina_figure

    data, size = retina_figure(figure, base64=True)
    return data, {"width": size["width"]}


def project_root() -> Path:
    """Return the root of the clone that the current folder lies in, or else the current folder.

    papermill runs a notebook from where it was launched, nbval and JupyterLab from the notebook's own folder.
    """
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "mmlib" / "__init__.py").exists()), here)
