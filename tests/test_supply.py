"""What the project takes from others: its inputs are used, licensed and known, and nothing asks the network."""

import ast
import functools
import json
import re
import socket
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import network_guard as network
import pytest

from tools import licences

ROOT = Path(__file__).parents[1]
FOLDERS = ["mmlib", "mmbook", "tools", "tests", "benchmarks", "examples"]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
# What is not imported, and who needs it.
REASONS = {
    "basedpyright": "the type checker of make lint",
    "django-static-mathjax": "the site's formulas, copied into it by tools/pages.py",
    "ipykernel": "notebooks run in it",
    "ipywidgets": "progress bars of notebooks",
    "jupyter-book": "the book's builder",
    "jupyterlab": "notebooks are read and run in it",
    "nbdime": "nbdiff in make notebooks",
    "nbval": "pytest --nbval",
    "playwright": "drives a browser where it is installed (pytest.importorskip)",
    "pycocotools": "torchmetrics computes average precision with it",
    "pytest-cov": "make coverage",
    "pytest-xdist": "pytest --numprocesses",
    "ruff": "make lint",
    "sphinx-book-theme": "the site's theme, pinned since later ones differ",
}


def requirements() -> set[str]:
    """Names of all that pyproject.toml asks for, itself and what only a cluster takes excepted."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = (
        project["dependencies"],
        *(of for name, of in project["optional-dependencies"].items() if name not in ("cluster", "kubernetes")),
    )
    asked = [line for lines in extras for line in lines]
    return {re.match(r"[\w-]+", line).group().lower() for line in asked} - {"mmlib"}


def sources() -> dict[str, str]:
    """The text of every module, script and notebook."""
    files = [ROOT / "conftest.py", *(p for name in FOLDERS for p in (ROOT / name).rglob("*.py"))]
    found = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in files}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        found[path.name] = "\n".join(re.sub(r"^( *)[%!].*$", r"\1pass", cell, flags=re.MULTILINE) for cell in code)
    return found


def imported(source: str) -> set[str]:
    """First names of what a text imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found


def all_imported() -> set[str]:
    return set().union(*(imported(text) for text in sources().values()))


@functools.cache
def distributions() -> dict[str, set[str]]:
    """Names of the installed distributions that each module comes from."""
    found = metadata.packages_distributions().items()
    return {module: {name.lower().replace("_", "-") for name in names} for module, names in found}


def test_every_input_is_imported_or_has_its_reason():
    provided = set().union(*(distributions().get(module, set()) for module in all_imported()))
    assert requirements() - provided == REASONS.keys() & requirements() - provided
    assert REASONS.keys() - requirements() == set()  # no reason for what nobody asks for


def test_every_import_is_asked_for():
    ours = {*FOLDERS, "conftest", "network_guard", *(path.stem for path in ROOT.rglob("benchmarks/*.py"))}
    foreign = all_imported() - sys.stdlib_module_names - ours
    assert {module for module in foreign if not distributions().get(module, set()) & requirements()} == set()


def test_the_lock_names_versions_alone():
    assert re.findall(r"https?:|--|@|/", LOCK) == []
    assert {pin["name"] for pin in licences.pins(LOCK)} >= requirements()


def test_every_locked_package_is_on_the_page_of_licences():
    text = (ROOT / licences.PAGE).read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\w.-]+) \| ([^|]+) \| [^|]+ \|$|^- ([\w.-]+) (\S+) \(`", text, re.MULTILINE)
    listed = {(a or c, (b or d).strip()) for a, b, c, d in rows} - {("package", "version")}
    assert listed == {(pin["name"], pin["version"]) for pin in licences.pins(LOCK)}


def test_licences_are_read_from_what_is_installed():
    assert "BSD" in licences.licence("torch", metadata.version("torch"))
    assert licences.licence("torch", "0.0") is licences.licence("no-such-package", "1.0") is None
    text = licences.page(f"torch=={metadata.version('torch')}\nno-such-package==1.0 ; sys_platform == 'win32'\n")
    assert "| torch | " in text
    assert text.endswith("- no-such-package 1.0 (`sys_platform == 'win32'`)\n")


NETWORK = {
    "aiohttp",
    "ftplib",
    "http",
    "httpx",
    "requests",
    "smtplib",
    "socket",
    "ssl",
    "telnetlib",
    "urllib",
    "urllib3",
}


def test_nothing_talks_to_the_network():
    """torchvision downloads CIFAR, SVHN and TinyImageNet where one asks for them, and `downloads` knows its errors.

    tools/pages.py parses addresses.
    """
    ours = {name for name, text in sources().items() if not name.startswith("tests") and imported(text) & NETWORK}
    assert ours == {"mmlib/experiments/data/downloads.py", "tools/pages.py", "tools/serve.py"}


IMPORT_ALL = """
import importlib, pathlib, sys, warnings
import network_guard as network

files = [path for name in sys.argv[1:] for path in sorted(pathlib.Path(name).rglob("*.py"))]
names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in files]
for name in names:
    importlib.import_module(name)
print(len(names), network.attempts)
"""


@pytest.mark.slow
def test_importing_any_module_leaves_the_network_alone():
    command = [sys.executable, "-c", IMPORT_ALL, "mmlib", "mmbook", "tools", "examples"]
    out = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    number, attempts = out.strip().split(maxsplit=1)
    assert int(number) > 100
    assert attempts == "[]"


@pytest.mark.parametrize("host", ["example.invalid", b"192.0.2.1", "10.0.0.1"])
def test_the_guard_refuses_and_lists(host):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "attempts", [])
        with pytest.raises(ConnectionRefusedError, match="host must be this machine"):
            socket.getaddrinfo(host, 80)
        with socket.socket() as made, pytest.raises(ConnectionRefusedError, match="host must be this machine"):
            made.connect(("192.0.2.1", 80))
        with socket.socket(type=socket.SOCK_DGRAM) as made, pytest.raises(ConnectionRefusedError):
            made.sendto(b"", ("192.0.2.1", 80))
        assert len(network.attempts) == 3


def test_the_guard_lets_this_machine_talk_to_itself():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
        socket.create_connection(("localhost", server.getsockname()[1])).close()


def python(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, check=False)


ASK = """
import socket
try:
    socket.getaddrinfo("example.invalid", 80)
except OSError as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(
    "command", [["-c", ASK], ["-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ASK!r}])"]]
)
def test_processes_of_a_test_are_guarded_and_theirs(command):
    assert python(*command).stdout == "ConnectionRefusedError\n"


def test_processes_of_a_test_talk_to_this_machine():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = python("-c", f"import socket; print(socket.create_connection(('localhost', {port})).getpeername()[1])")
    assert done.stdout == f"{port}\n"


def test_an_example_in_a_docstring_that_asks_for_a_host_fails(tmp_path):
    """Although it swallows the refusal."""
    asks = "import socket\n    >>> try: _ = socket.getaddrinfo('example.invalid', 80)\n    ... except OSError: pass\n"
    (tmp_path / "asking.py").write_text(f'"""\n    >>> {asks}"""\n', encoding="utf-8")
    options = ["-p", "conftest", "-p", "no:cacheprovider", "-o", "addopts=", f"--rootdir={tmp_path}"]
    done = python("-m", "pytest", *options, "--doctest-modules", str(tmp_path / "asking.py"))
    assert done.returncode == 1
    assert "socket.getaddrinfo example.invalid" in done.stdout
    assert "1 passed, 1 error" in done.stdout


IMPORT_TIME = """
import time
import torch
start = time.process_time()
import mmlib
print(time.process_time() - start)
"""


def seconds_of_import() -> float:
    command = [sys.executable, "-c", IMPORT_TIME]
    return float(subprocess.run(command, check=True, capture_output=True, cwd=ROOT).stdout)


def test_the_import_takes_at_most_a_third_of_a_second_beyond_torch():
    assert seconds_of_import() <= 0.3 or seconds_of_import() <= 0.3  # the first may compile bytecode


def test_an_environment_without_cuda_takes_all_pins_but_cuda(tmp_path):
    """The recipe of `make environment TORCH=cpu`, with a uv that only keeps what it is asked for."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for program, does in {"python": "true", "uv": 'echo "$@" > arguments; cat > asked'}.items():
        (programs / program).write_text(f"#!/bin/sh\n{does}\n", encoding="utf-8")
        (programs / program).chmod(0o755)
    command = ["make", "environment", "TORCH=cpu", "PYTHON=true"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    asked = set((tmp_path / "asked").read_text(encoding="utf-8").splitlines())
    left_out = {line.partition("==")[0] for line in LOCK.splitlines() if line not in asked}
    assert asked <= set(LOCK.splitlines())
    assert {name.split("-")[0] for name in left_out} == {"cuda", "nvidia", "triton"}
    assert "--torch-backend cpu" in (tmp_path / "arguments").read_text(encoding="utf-8")
