"""The library stands without the book, and stays small."""

import ast
import io
import tokenize
from pathlib import Path

import pytest

import mmlib

MODULES = list(Path(mmlib.__file__).parent.rglob("*.py"))
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def docstrings(tree: ast.Module) -> list[ast.expr]:
    """What documents a module, its classes and functions."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef
    return [node.body[0] for node in ast.walk(tree) if isinstance(node, kinds) and ast.get_docstring(node) is not None]


def lines_of_code(source: str) -> int:
    """Lines with anything on them but docstrings and comments."""
    found = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            found.update(range(token.start[0], token.end[0] + 1))
    for node in docstrings(ast.parse(source)):
        found.difference_update(range(node.lineno, node.end_lineno + 1))
    return len(found)


def imported(source: str) -> set[str]:
    """The packages that a module imports, anywhere."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    return found


def test_lines_of_code_are_counted():
    source = '"""Doc.\n\nMore.\n"""\n\nA = {  # why\n    1,\n}\n\n\ndef f():\n    """Doc."""\n    # why\n    return A\n'
    assert lines_of_code(source) == 5


def test_the_library_does_not_import_the_book():
    assert len(MODULES) > 20
    assert {path.name for path in MODULES if "mmbook" in imported(path.read_text())} == set()


def test_the_library_has_fewer_than_2500_lines_of_code():
    assert sum(lines_of_code(path.read_text()) for path in MODULES) < 2500


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_function_is_longer_than_50_lines_with_its_docstring(path):
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    assert [f.name for f in functions if f.end_lineno - f.lineno + 1 > 50] == []
