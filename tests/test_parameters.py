"""Parameters of notebooks: names and types, which papermill does not check."""

import sys
import types

import pytest

from mmbook.notebook import check_parameters, project_root


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
        ("n = 'ten'", "n must be int, got 'ten'"),
        ("n = 1.0", "n must be int, got 1.0"),
        ("n = True", "n must be int, got True"),
        ("lr = '0.1'", "lr must be float, got '0.1'"),
        ("name = 3", "name must be str or None, got 3"),
    ],
)
def test_values_of_another_type_are_refused(notebook, injected, message):
    exec(injected, notebook)
    with pytest.raises(TypeError, match=message):
        check_parameters(notebook)


def test_unknown_names_are_refused(notebook):
    exec("epoch = 3", notebook)
    with pytest.raises(ValueError, match="epoch is no parameter of this notebook"):
        check_parameters(notebook)


def test_project_root(monkeypatch, tmp_path):
    (tmp_path / "mmlib").mkdir()
    (tmp_path / "mmlib" / "__init__.py").touch()
    inner = tmp_path / "notebooks" / "deeper"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert project_root() == tmp_path
