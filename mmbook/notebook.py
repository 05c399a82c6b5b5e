"""What every notebook does first: check its parameters by name and type, for papermill checks neither."""

import inspect
import sys
from pathlib import Path

from mmlib._checks import check_type


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
