"""Mutation testing: change one thing in a module at a time, and see whether a test fails.

python -m tools.mutate mixing attention --minutes 20

A mutant has another operator, number, text, condition or returned value, or lacks a keyword argument or a call whose
result nobody takes. It runs in a process of its own, forked from one that has imported torch and the like, on a copy of
the repository, and is killed by the first test that fails, or by the time. Survivors are printed. One that is listed in
tests/equivalent_mutants.yml, with the reason why it computes the same, does not count. The order is random, the same
every time, so that the mutants of a run that its minutes cut short are a fair sample.
"""

import argparse
import ast
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
EQUIVALENT = ROOT / "tests" / "equivalent_mutants.yml"
COPIED = ("mmlib", "mmbook", "tests", "tools", "examples", "conftest.py", "pyproject.toml", "experiments.yml")
# What the tests import of others, once for all mutants.
IMPORTED = (
    "torch",
    "numpy",
    "numba",
    "scipy.stats",
    "sklearn.metrics",
    "torchvision",
    "jaxtyping",
    "beartype",
    "pytest",
)
METHODS = [
    "test_methods",
    "test_compared_methods",
    "test_method_inputs",
    "test_puzzles",
    "test_ablations",
    "test_signal",
]
LOSSES = ["test_cross_entropy", "test_losses", "test_loss_options", "test_cuda_rehearsal"]
# The tests of other modules have their names.
TESTS = {
    "functional": LOSSES,
    "losses": LOSSES,
    "_mixed_loss": LOSSES,
    "_autograd": LOSSES,
    "sampling": ["test_sampling", "test_dirichlet", "test_cuda_rehearsal"],
    "_checks": ["test_checks", "test_losses", "test_sampling"],
}
# Words in the names of a module's own tests, where they are not the module's name.
OWN = {
    "experiments.methods._saliency": "saliency or puzzles",
    "experiments.methods.alignmixup": "alignmixup or sinkhorn or distances or plans",
    "experiments.methods.amplified_multimix": "amplified",
    "experiments.methods.anchored_multimix": "around",
    "experiments.methods.annealed_multimix": "annealed",
    "experiments.methods.base": "erm or state or generators or option or half",
    "experiments.methods.comixup": "puzzles or comixup",
    "experiments.methods.distillation": "distill or teacher",
    "experiments.methods.hidden_multimix": "hidden",
    "experiments.methods.one_alpha_multimix": "one_alpha",
    "experiments.methods.puzzlemix": "puzzles or puzzlemix",
    "experiments.methods.sparse_multimix": "tuples",
}
COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATIONS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
QUIET = ("-W", "ignore::pytest.PytestAssertRewriteWarning")  # plugins that are imported already
LOG = os.devnull
NONE_COLLECTED = 5  # what pytest returns where no test has the name
TIMEOUT = 300  # seconds after which a mutant counts as killed: it does not end


def changes(node: ast.AST) -> Iterator[str]:
    """Yield what may stand in the place of a node, as text."""
    if isinstance(node, ast.Compare):
        for k, operator in enumerate(node.ops):
            ops = [*node.ops[:k], COMPARISONS[type(operator)](), *node.ops[k + 1 :]]
            yield ast.unparse(ast.Compare(node.left, ops, node.comparators))
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
        yield ast.unparse(ast.BinOp(node.left, OPERATIONS[type(node.op)](), node.right))
    elif isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield ast.unparse(ast.BoolOp(other, node.values))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield ast.unparse(node.operand)
    elif isinstance(node, ast.IfExp):
        yield ast.unparse(ast.IfExp(node.test, node.orelse, node.body))
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield str(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield repr(node.value + 1 if node.value + 1 != node.value else 2 * node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield repr(node.value + "_")
    elif isinstance(node, ast.Call):
        for keyword in node.keywords:
            if keyword.arg and keyword.arg != "device":  # there is one device here
                left = [other for other in node.keywords if other is not keyword]
                yield ast.unparse(ast.Call(node.func, node.args, left))


def statement_changes(node: ast.stmt) -> Iterator[tuple[ast.AST, str]]:
    """Yield nodes of a statement with what may stand in their places."""
    if isinstance(node, ast.If | ast.While):
        yield node.test, f"not ({ast.unparse(node.test)})"
    elif isinstance(node, ast.Return) and node.value and ast.unparse(node.value) != "None":
        yield node, "return None"
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield node, "pass"


def walk(node: ast.AST, scope: str = "") -> Iterator[tuple[str, ast.AST, str]]:
    """Yield the name of the function, a node and what may stand in its place; not in annotations, texts or errors."""
    inner = f"{scope}.{node.name}".lstrip(".") if isinstance(node, ast.FunctionDef | ast.ClassDef) else scope
    if isinstance(node, ast.stmt):
        yield from ((inner, place, text) for place, text in statement_changes(node))
    elif isinstance(node, ast.expr):
        yield from ((inner, node, text) for text in changes(node))
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "ops", "op"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_left_alone(child):
                yield from walk(child, inner)


def _is_left_alone(node: ast.AST) -> bool:
    """Say whether a node is a docstring, the text of an error or the shape of a tensor's type."""
    docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    shape = isinstance(node, ast.Subscript) and ast.unparse(node.value) in ("Float", "Int", "Bool", "UInt8")
    return docstring or shape or isinstance(node, ast.Raise | ast.JoinedStr)


def mutants(source: str) -> Iterator[tuple[str, str]]:
    """Yield each mutant's name, `function: line: before -> after`, and its source.

    >>> [name for name, _ in mutants("y = x < 1")]
    ['module: y = x < 1: x < 1 -> x <= 1', 'module: y = x < 1: 1 -> 2']
    """
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for scope, node, text in walk(ast.parse(source)):
        begin, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        code, new = source.encode(), text if isinstance(node, ast.stmt) else f"({text})"
        line = source.splitlines()[node.lineno - 1].strip()
        name = f"{scope or 'module'}: {line}: {ast.unparse(node)} -> {text}"
        yield name, (code[:begin] + new.encode() + code[end:]).decode()


def survives(folder: Path, arguments: list[str]) -> bool:
    """Run pytest in a fork, in `folder`, and say whether every test passes in time, or none has such a name."""
    child = os.fork()
    if not child:
        os.setsid()
        os.chdir(folder)
        sys.path[0] = str(folder)
        for name in [name for name in sys.modules if name.split(".")[0] in ("mmlib", "mmbook", "tests", "tools")]:
            del sys.modules[name]
        log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        import pytest

        os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *QUIET, *arguments]))
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status) in (0, NONE_COLLECTED)
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def source_of(module: str) -> Path:
    """Return the file of a module of `mmlib`."""
    return ROOT.joinpath("mmlib", *module.split(".")).with_suffix(".py")


def run(module: str, minutes: float, folder: Path, passed: list[list[str]]) -> tuple[int, int, list[str]]:
    """Test the mutants of a module; return how many there are and were tried, and the names of the survivors.

    Args:
        passed: the names of tests that have passed without a mutant; those of this module are added.

    Raises:
        RuntimeError: the tests fail without a mutant.
    """
    path = source_of(module).relative_to(ROOT)
    names = METHODS if "methods." in module else TESTS.get(module, [f"test_{path.stem}"])
    tests = [f"tests/{name}.py" for name in names]
    source, end = (ROOT / path).read_text(encoding="utf-8"), time.monotonic() + 60 * minutes
    if names not in passed:
        if not survives(folder, tests):
            raise RuntimeError(f"{' '.join(tests)} must pass without a mutant; {LOG} says what fails")
        passed.append(names)
    own = OWN.get(module, path.stem)
    found, tried, left = [*mutants(source)], 0, []
    random.Random(0).shuffle(found)
    for name, text in found:
        if time.monotonic() > end:
            print(f"{module}: {minutes} minutes are over")
            break
        tried += 1
        (folder / path).write_text(text, encoding="utf-8")
        os.utime(folder / path, (tried, tried))  # Python knows compiled modules by the second of their sources
        # Most mutants are killed by one of the module's own tests.
        if survives(folder, [*tests, "-k", own]) and survives(folder, [*tests, "-k", f"not ({own})"]):
            left.append(name)
            print(f"{module}: survived: {name}", flush=True)
    (folder / path).write_text(source, encoding="utf-8")
    return len(found), tried, left


def main() -> None:
    """Test the modules that the command names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="+", help="such as metrics or experiments.methods.mixup")
    parser.add_argument("--minutes", type=float, default=60.0, help="for each module")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.modules if not source_of(name).is_file()]:
        sys.exit(f"mutate: modules must be modules of mmlib, such as metrics, got {unknown[0]!r}")
    os.environ |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    for name in IMPORTED:
        importlib.import_module(name)
    known = yaml.safe_load(EQUIVALENT.read_text(encoding="utf-8")) or {}
    passed = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, Path(scratch, name))
        for module in arguments.modules:
            count, tried, left = run(module, arguments.minutes, Path(scratch), passed)
            alive = [name for name in left if name not in known.get(module, {})]
            equal = len(left) - len(alive)
            killed = tried - len(left)
            share = 100 * killed / max(1, tried - equal)
            said = f"{killed} of {tried} killed, of {count}; {equal} equivalent, {share:.1f} % of the others"
            print(f"{module}: {said}", flush=True)


if __name__ == "__main__":
    main()
