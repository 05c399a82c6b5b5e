"""The quality page tells the truth: its table has every public function, and its tests are there."""

import ast
import re
from pathlib import Path

import pytest
import yaml

import mmlib
from mmlib.experiments.methods import METHODS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "book" / "quality.md").read_text(encoding="utf-8")
SECTION = re.search(r"## Independent references(.*?)(?=\n## |\Z)", PAGE, re.DOTALL)[1]
ROWS = [line.strip("| ").split(" | ") for line in SECTION.splitlines() if line.startswith("|")][2:]


def names_of(path: Path) -> set[str]:
    """Public functions and classes of a module."""
    kinds = ast.FunctionDef | ast.ClassDef
    found = {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, kinds)}
    return {name for name in found if not name.startswith("_")}


def test_every_public_function_and_method_has_its_reference():
    modules = [path for path in (ROOT / "mmlib").glob("*.py") if not path.name.startswith("_")]
    public = set(mmlib.__all__).union(METHODS, *map(names_of, modules))
    assert len(public) > 50
    assert public - {name for functions, *_ in ROWS for name in re.findall(r"`(\w+)`", functions)} == set()


def test_every_test_of_the_table_is_there():
    named = {tuple(test.split("::")) for *_, tests in ROWS for test in re.findall(r"`([\w.]+::\w+)`", tests)}
    assert all("::" in tests for *_, tests in ROWS)
    assert {(file, test) for file, test in named if test not in names_of(ROOT / "tests" / file)} == set()


def used_by(test: str, path: Path) -> set[str]:
    """Names and strings in a test and in the functions, fixtures and variables of its file that it uses."""
    definitions = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node]
        for name in (getattr(target, "id", getattr(target, "name", None)) for target in targets):
            definitions[name] = node
    found, waiting = set(), [test]
    while waiting:
        body = list(ast.walk(definitions[waiting.pop()]))
        names = {getattr(node, key, None) for node in body for key in ("id", "attr", "arg", "value")}
        new = {name for name in names if isinstance(name, str)} - found
        found |= new
        waiting += new & set(definitions)
    return found


def test_every_test_of_the_table_calls_what_its_row_is_about():
    """Docstrings and comments do not count: one string is a name only where it is all of it, as of a method."""
    wrong = []
    for functions, _, tests in ROWS:
        functions = set(re.findall(r"`(\w+)`", functions))
        named = [tuple(test.split("::")) for test in re.findall(r"`([\w.]+::\w+)`", tests)]
        uses = {test: used_by(test, ROOT / "tests" / file) & functions for file, test in named}
        wrong += [test for test, used in uses.items() if functions and not used]
        wrong += functions - set().union(*uses.values())
    assert wrong == []


TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def test_every_command_of_the_page_is_a_target():
    assert set(re.findall(r"`make ([a-z-]+)", PAGE)) - TARGETS == set()


@pytest.mark.parametrize("workflow", sorted((ROOT / ".github" / "workflows").iterdir()), ids=lambda path: path.stem)
def test_every_command_of_a_workflow_is_a_target(workflow):
    jobs = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"].values()
    matrices = [job.get("strategy", {}).get("matrix", {}).get("target", []) for job in jobs]
    called = re.findall(r"run: make ([a-z-]+)", workflow.read_text(encoding="utf-8"))
    assert set(called).union(*matrices) - TARGETS == set()
    assert called or any(matrices)
