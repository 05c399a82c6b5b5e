"""The library stands without the experiments and the book, needs torch and NumPy alone, and stays small."""

import ast
import importlib.metadata
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

import mmlib

ROOT = Path(mmlib.__file__).parents[1]
LIBRARY = sorted((ROOT / "mmlib").glob("*.py"))
EXPERIMENTS = sorted((ROOT / "mmlib" / "experiments").rglob("*.py"))
# A module of one floor imports nothing of the floors after its own.
FLOORS = ["data", "models", "methods", "evaluation", "training", "runs"]
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def docstrings(tree: ast.Module) -> list[ast.expr]:
    """List the docstrings of a module, its classes and functions."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef
    return [node.body[0] for node in ast.walk(tree) if isinstance(node, kinds) and ast.get_docstring(node) is not None]


def lines_of_code(source: str) -> int:
    """Count the lines with anything on them but docstrings and comments."""
    found = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            found.update(range(token.start[0], token.end[0] + 1))
    for node in docstrings(ast.parse(source)):
        found.difference_update(range(node.lineno, node.end_lineno + 1))
    return len(found)


def module_name(path: Path) -> str:
    """Name the module that a file holds."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def is_module(name: str) -> bool:
    """Say whether a dotted name is a module or package of this project."""
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def imports(source: str, module: str = "", lazy: bool = True) -> set[str]:
    """List the full names of the modules that a source imports.

    Args:
        source: the module's text.
        module: its name, for relative imports.
        lazy: include the imports inside functions, which run later than the module's own.
    """
    found = set()
    waiting = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*module.split(".")[: -node.level], *filter(None, [node.module])])
            for alias in node.names:  # `from package import module` imports the module
                full = f"{base}.{alias.name}"
                found.add(full if is_module(full) else base)
        elif lazy or not isinstance(node, ast.FunctionDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))
    return found


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_lines_of_code_are_counted():
    source = '"""Doc.\n\nMore.\n"""\n\nA = {  # why\n    1,\n}\n\n\ndef f():\n    """Doc."""\n    # why\n    return A\n'
    assert lines_of_code(source) == 5


def test_imports_are_found():
    source = "import a.b\nfrom mmlib import sampling, mix\nfrom mmlib.mixing import mix\nfrom . import losses\n"
    later = "def f():\n    from mmlib.experiments import data\n"
    found = {"a.b", "mmlib.sampling", "mmlib", "mmlib.mixing", "mmlib.losses"}
    assert imports(source + later, "mmlib.metrics", lazy=False) == found
    assert imports(source + later, "mmlib.metrics") == found | {"mmlib.experiments.data"}


def test_the_library_has_at_most_1660_lines_of_code():
    assert len(LIBRARY) > 10
    assert sum(lines_of_code(path.read_text()) for path in LIBRARY) <= 1660


@pytest.mark.parametrize("path", LIBRARY, ids=module_name)
def test_the_library_does_not_import_the_experiments(path):
    found = imports(path.read_text(), module_name(path))
    assert {name for name in found if within(name, "mmlib.experiments")} == set()


@pytest.mark.parametrize("path", LIBRARY + EXPERIMENTS, ids=module_name)
def test_mmlib_neither_imports_nor_names_the_book(path):
    assert "mmbook" not in path.read_text()


@pytest.mark.parametrize("path", EXPERIMENTS, ids=module_name)
def test_experiments_import_downwards(path):
    module = module_name(path)
    floor = module.removeprefix("mmlib.experiments.").split(".")[0]
    above = FLOORS[FLOORS.index(floor) + 1 :] if floor in FLOORS else []
    found = imports(path.read_text(), module)
    assert {name for name in found for other in above if within(name, f"mmlib.experiments.{other}")} == set()


def test_no_module_imports_itself_by_way_of_others():
    modules = {module_name(path): path for path in LIBRARY + EXPERIMENTS}
    graph = {module: imports(path.read_text(), module) & modules.keys() for module, path in modules.items()}
    while leaves := {module for module, found in graph.items() if not found & graph.keys()}:
        graph = {module: found - leaves for module, found in graph.items() if module not in leaves}
    while tops := graph.keys() - set().union(*graph.values()):  # they import a circle and are in none
        graph = {module: found for module, found in graph.items() if module not in tops}
    assert graph == {}


WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {missing}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
import torch
import mmlib

generator = torch.Generator().manual_seed(0)
logits = torch.randn(8, 4, 3, generator=generator).requires_grad_()
labels, attention = torch.arange(8) % 3, torch.rand(8, 4, generator=generator)
weights = mmlib.sample_mixing_weights(300, 8, generator=generator)
assert torch.allclose(weights.sum(1), torch.ones(300))
for given in (None, weights):
    arguments = {{"num_mixtures": 300, "generator": generator}} if given is None else {{"mixing_weights": given}}
    for loss in (
        mmlib.mixed_cross_entropy(logits[:, 0], labels, **arguments),
        mmlib.dense_mixed_cross_entropy(logits, labels, attention, **arguments),
    ):
        loss.backward()
        print(loss.item())
assert not sys.modules.keys() & {missing}
"""


def test_the_library_needs_torch_and_numpy_alone():
    """A process that cannot import anything else draws the same weights and losses as one without numba."""
    missing = {"numba", "llvmlite", "tqdm", "jaxtyping", "beartype", "scipy", "sklearn", "torchvision", "pandas"}
    command = [sys.executable, "-c", WITHOUT.format(missing=missing)]
    out = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    losses = [float(line) for line in out.split()]
    assert len(losses) == 4
    assert all(0.5 < loss < 3 for loss in losses)
    assert losses[:2] == pytest.approx(losses[2:], rel=0.1)  # of drawn and of given weights


def test_the_version_is_the_distributions():
    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE).group(1)
    assert mmlib.__version__ == importlib.metadata.version("mmlib") == declared


def test_a_copy_that_is_not_installed_has_a_version():
    code = (
        "import importlib.metadata as m\n"
        "def version(name): raise m.PackageNotFoundError(name)\n"
        "m.version = version\n"
        "import mmlib; print(mmlib.__version__)"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert out.strip() == "0+unknown"


def test_type_checkers_are_told_of_the_types():
    assert (ROOT / "mmlib" / "py.typed").exists()
