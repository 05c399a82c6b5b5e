"""Parameters of notebooks: names and types, which papermill does not check."""

import sys
import types

import pytest

from mmbook.notebook import check_parameters, project_root
from mmlib._checks import check_type


@pytest.fixture
def notebook():
    """A notebook's namespace after its `parameters` cell; papermill's injected cell comes next."""
    module = types.ModuleType("notebook_under_test")
    sys.modules[module.__name__] = module
    exec("import math\nIn, Out, _ = [], {}, 3\nn: int = 10\nlr: float = 0.1\nname: str | None = None", module.__dict__)
    yield module.__dict__
    del sys.modules[module.__name__]


def test_defaults_and_good_values_pass(notebook):
    check_parameters(notebook)
    exec("n = 20\nlr = 1\nname = 'x'", notebook)
    check_parameters(notebook)


@pytest.mark.parametrize(
    ("injected", "message"),
    [
        ("epoch = 3", "epoch is no parameter of this notebook; it takes n, lr, name"),
        ("n = 'ten'", "n is 'ten'; it takes int"),
        ("n = 1.0", "n is 1.0; it takes int"),
        ("n = True", "n is True; it takes int"),
        ("lr = '0.1'", "lr is '0.1'; it takes float"),
        ("name = 3", "name is 3; it takes str or None"),
    ],
)
def test_others_are_named(notebook, injected, message):
    exec(injected, notebook)
    with pytest.raises(ValueError, match=message):
        check_parameters(notebook)


def test_whole_numbers_are_floats_but_booleans_are_not():
    check_type("lr", 1, float)
    check_type("flag", True, bool)
    with pytest.raises(ValueError, match="lr is True"):
        check_type("lr", True, float)


def test_project_root(monkeypatch, tmp_path):
    (tmp_path / "mmlib").mkdir()
    (tmp_path / "mmlib" / "__init__.py").touch()
    inner = tmp_path / "notebooks" / "deeper"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert project_root() == tmp_path
