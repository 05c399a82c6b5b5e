"""Notebooks as papermill and people meet them."""

import ast
import base64
import io
import itertools
import json
import os
import re
import subprocess
import symtable
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmbook.notebook import check_parameters, project_root

ROOT = Path(__file__).parents[1]
NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}


def code_cells(name):
    cells = json.loads(NOTEBOOKS[name].read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def parameters_cell(name):
    (cell,) = (cell for cell in code_cells(name) if "parameters" in cell["metadata"].get("tags", []))
    return cell["source"]


def run_papermill(notebook, out, *arguments, **environment):
    command = [sys.executable, "-m", "papermill", "-k", "python3", "--no-progress-bar"]
    return subprocess.run(
        [*command, str(notebook), str(out), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_parameter_is_typed_and_explained(name):
    for line in parameters_cell(name):
        parameter, rest = line.split(":", 1)
        assert parameter.isidentifier(), line
        assert " = " in rest, line
        assert "  # " in rest, line


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_papermill_lists_every_parameter_with_its_type(name):
    """Its pattern for annotations knows no `|`; a line that it cannot read is left out of its help."""
    from papermill.inspection import inspect_notebook

    listed = inspect_notebook(NOTEBOOKS[name])
    declared = ast.parse("".join(parameters_cell(name))).body
    assert list(listed) == [node.target.id for node in declared]
    for node in declared:
        parameter = listed[node.target.id]
        assert parameter["inferred_type_name"].strip() == ast.unparse(node.annotation)
        assert ast.literal_eval(parameter["default"]) == ast.literal_eval(node.value)
        assert parameter["help"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_parameters_are_checked_right_after_their_cell(name):
    install, parameters, setup = ("".join(cell["source"]) for cell in code_cells(name)[:3])
    assert "find_spec" in install
    assert '"mmbook", "mmlib"' in install
    assert parameters == "".join(parameters_cell(name))
    assert "notebook.setup(globals())" in setup


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_parameters_keep_their_values(name):
    """A cell that assigned to one would run once only, and the fold "What was run" would show its value."""
    declared = {line.split(":")[0] for line in parameters_cell(name)}
    for cell in code_cells(name):
        if "parameters" not in cell["metadata"].get("tags", []):
            source = "".join(cell["source"]).replace("%pip install", "pass  # %pip install")
            names = symtable.symtable(source, name, "exec")
            assigned = {symbol.get_name() for symbol in names.get_symbols() if symbol.is_assigned()}
            assert not declared & assigned, source


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_carries_no_widgets_errors_or_paths_of_a_machine(name):
    notebook = json.loads(NOTEBOOKS[name].read_text())
    assert "widgets" not in notebook["metadata"]
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    assert outputs
    assert not any(output["output_type"] == "error" or output.get("name") == "stderr" for output in outputs)
    texts = json.dumps([{k: v for k, v in output.items() if k != "data"} for output in outputs])
    assert str(Path.home()) not in texts
    assert "/tmp" not in texts


WIDTH = 88  # characters that fit the page's column


def cells_of(name):
    return json.loads(NOTEBOOKS[name].read_text())["cells"]


def tags(cell):
    return set(cell["metadata"].get("tags", []))


def prose(name):
    return "\n".join("".join(cell["source"]) for cell in cells_of(name) if cell["cell_type"] == "markdown")


def images(cell):
    return [output for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]


def figure_of(cell):
    return cell["metadata"].get("mystnb", {}).get("figure", {})


def pictures():
    for name in NOTEBOOKS:
        yield from (pytest.param(name, i, id=f"{name}-{c['id']}") for i, c in enumerate(cells_of(name)) if images(c))


@pytest.mark.parametrize(("name", "index"), list(pictures()))
def test_every_picture_is_a_figure_with_caption_name_and_alternative_text(name, index):
    """A caption goes to every rich output of its cell, so that a picture is the only one."""
    cell = cells_of(name)[index]
    assert len([output for output in cell["outputs"] if "data" in output]) == 1
    figure, alternative = figure_of(cell), cell["metadata"]["mystnb"]["image"]["alt"]
    assert figure["name"].startswith("fig-")
    assert len(figure["caption"].split()) >= 8
    assert len(alternative.split()) >= 8
    assert alternative != figure["caption"]
    # No measured number stands in either: both must be true of the next run as well.
    settings = {"0.1", "0.2", "0.5", "0.9"}
    assert set(re.findall(r"\d+\.\d+", figure["caption"] + alternative)) <= settings


@pytest.mark.parametrize(("name", "index"), list(pictures()))
def test_every_figure_stands_where_it_is_spoken_of_or_is_referred_to(name, index):
    cells = cells_of(name)
    near = [cell["cell_type"] == "markdown" for cell in cells[max(0, index - 1) : index + 3]]
    referred = f"{{numref}}`{figure_of(cells[index])['name']}`" in prose(name)
    before = [cell for cell in cells[1:index] if not tags(cell) & {"remove-cell", "hide-cell"}]
    opens = all(map(is_answer, before))  # the answer's figure
    assert any(near) or referred or opens


def test_figures_have_names_of_their_own_and_references_find_them():
    names = [figure_of(cell)["name"] for name in NOTEBOOKS for cell in cells_of(name) if figure_of(cell)]
    assert len(set(names)) == len(names)
    referred = {found for name in NOTEBOOKS for found in re.findall(r"\{numref\}`([^`]+)`", prose(name))}
    assert referred <= set(names)


# Of chapters that read records: drawn from a formula or from data, not from them.
WITHOUT_RECORDS = {"fig-ood-images", "fig-canvases", "fig-own-weight"}


@pytest.mark.parametrize(("name", "index"), list(pictures()))
def test_a_figure_from_records_leads_to_them(name, index):
    """Beneath it, or beneath the table that goes with it; what the page has trained itself has no record."""
    cells = cells_of(name)
    reads = any("show_records" in "".join(cell["source"]) for cell in cells)
    if not reads or "x86-64" in tags(cells[index]) or figure_of(cells[index])["name"] in WITHOUT_RECORDS:
        return
    below = itertools.takewhile(lambda cell: cell["cell_type"] == "code" and not images(cell), cells[index + 1 :])
    folds = [cell for cell in below if "show_records(" in "".join(cell["source"])]
    assert tags(folds[0]) == {"remove-input"}
    assert "<details><summary>Records: " in "".join(folds[0]["outputs"][0]["data"]["text/html"])


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_site_shows_at_most_one_fold_before_the_answer(name):
    """The installer is not on the site; of parameters and imports one may be, in a fold."""
    cells = cells_of(name)
    assert cells[0]["cell_type"] == "markdown"
    assert "**Question.**" in prose(name)
    first = next(i for i, cell in enumerate(cells) if cell["cell_type"] == "code" and not is_setup(cell))
    written = all(is_setup(cell) for cell in cells[1:first]) and is_answer(cells[first])
    assert ("**Answer.**" in "".join(cells[0]["source"])) != written
    before = [cell for cell in cells[:first] if cell["cell_type"] == "code"]
    assert "remove-cell" in tags(before[0])
    shown = [cell for cell in before if "remove-cell" not in tags(cell)]
    assert len(shown) <= 1
    assert all(tags(cell) & {"hide-cell", "hide-input"} for cell in shown)


def is_setup(cell):
    source = "".join(cell["source"])
    return "find_spec" in source or "notebook.setup" in source or "parameters" in tags(cell)


def is_answer(cell):
    """Whether a cell writes the answer from the records: it shows nothing before it, and its code lies in a fold."""
    outputs = cell.get("outputs") or [{}]
    shown = "".join(outputs[0].get("data", {}).get("text/markdown", ""))
    return "hide-input" in tags(cell) and shown.startswith("**Answer.** ")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_code_and_printed_lines_fit_the_column(name):
    for cell in code_cells(name):
        lines = "".join(cell["source"]).splitlines()
        for output in cell["outputs"]:
            lines += "".join(output.get("text", [])).splitlines()
        assert not [line for line in lines if len(line) > WIDTH], cell["id"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_prose_outweighs_the_code_that_is_shown(name):
    folded = {"hide-input", "hide-cell", "remove-cell", "remove-input"}
    shown = ["".join(cell["source"]) for cell in code_cells(name) if not tags(cell) & folded]
    assert sum(map(len, shown)) < len(prose(name))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_exercise_has_a_hidden_solution(name):
    text = prose(name)
    assert text.count("## Exercise") == 1
    assert text.count("<details><summary>Solution</summary>") == text.count("</details>") == 1


SOLUTIONS = [name for name in NOTEBOOKS if "```python" in prose(name) and name != "12-cifar100"]  # which needs its data


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLUTIONS)
def test_code_of_a_solution_runs_after_the_chapter(name, tmp_path):
    code = ["".join(cell["source"]) for cell in code_cells(name)[1:]]  # without the installer
    code = ["from typing import Optional\nfrom pathlib import Path", *code]
    code += re.findall(
        r"^```python\n(.*?)^```", prose(name).partition("Solution</summary>")[2], re.DOTALL | re.MULTILINE
    )
    script = tmp_path / "chapter.py"
    script.write_text("\n".join(code))
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "MPLBACKEND": "agg",
        "OMP_NUM_THREADS": "1",
        "TQDM_DISABLE": "1",
    }
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT / "notebooks")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_links_to_chapters_wear_their_titles(name):
    for text, chapter in re.findall(r"\[([^\]]+)\]\((\d\d-[\w-]+)\.ipynb\)", prose(name)):
        title = "".join(cells_of(chapter)[0]["source"][0]).removeprefix("# ").strip()
        assert " ".join(text.split()) == title


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_chapter_ends_with_what_was_run(name):
    last = cells_of(name)[-1]
    assert "what_was_run(globals()" in "".join(last["source"])
    assert tags(last) == {"remove-input", "nbval-ignore-output"}
    (output,) = last["outputs"]
    assert "What was run" in "".join(output["data"]["text/html"])


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_cost_is_about_what_was_measured(name):
    """On whatever machine the stored outputs come from."""
    said = int(re.search(r"\*\*Cost\*\*.*?about\s(\d+)\sseconds", prose(name), re.DOTALL)[1])
    (output,) = cells_of(name)[-1]["outputs"]
    measured = int(re.search(r"in (\d+) seconds of processor time", "".join(output["data"]["text/html"]))[1])
    assert said / 3 <= measured <= 3 * said


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_keeps_no_times_of_its_execution(name):
    assert not [cell["id"] for cell in cells_of(name) if "execution" in cell["metadata"]]


def imports():
    """Every name that a notebook imports of mmlib and mmbook: notebook, module, name (None: the module itself)."""
    for name in NOTEBOOKS:
        source = "\n".join("".join(cell["source"]) for cell in code_cells(name)).replace("%pip", "# %pip")
        source = source.replace("# %pip install", "pass  # %pip install")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ("mmlib", "mmbook"):
                yield from (pytest.param(node.module, a.name, id=f"{name}-{a.name}") for a in node.names)


@pytest.mark.parametrize(("module", "name"), list(imports()))
def test_names_that_notebooks_import_exist(module, name):
    namespace = {}
    exec(f"from {module} import {name}", namespace)
    assert name in namespace


class Kernel:
    """A notebook's namespace as a kernel keeps it: `In` has the source of every cell that ran."""

    def __init__(self):
        self.module = types.ModuleType("notebook_under_test")
        self.namespace = self.module.__dict__
        self.namespace |= {"In": [""], "Out": {}, "_": 3}

    def run(self, *cells):
        for cell in cells:
            self.namespace["In"].append(cell)
            exec(cell, self.namespace)


IMPORTS = "import math\nfrom typing import Optional"
PARAMETERS = "n: int = 10\nlr: float = 0.1\nname: Optional[str] = None"


@pytest.fixture
def kernel(monkeypatch):
    kernel = Kernel()
    monkeypatch.setitem(sys.modules, kernel.module.__name__, kernel.module)
    kernel.run(IMPORTS, PARAMETERS)
    return kernel


def test_defaults_and_good_values_pass(kernel):
    check_parameters(kernel.namespace)
    kernel.run("# Parameters\nn = 20\nlr = 1\nname = 'x'\n")
    check_parameters(kernel.namespace)


@pytest.mark.parametrize(
    ("injected", "error", "message"),
    [
        ("epoch = 3", ValueError, "epoch is not a parameter of this notebook; it takes n, lr, name"),
        ("n = 'ten'", TypeError, "n must be int, got 'ten'"),
        ("n = 1.0", TypeError, "n must be int, got 1.0"),
        ("n = True", TypeError, "n must be int, got True"),
        ("lr = '0.1'", TypeError, "lr must be float, got '0.1'"),
        ("name = 3", TypeError, "name must be str or None, got 3"),
    ],
)
def test_unknown_parameters_and_wrong_types_are_named(kernel, injected, error, message):
    kernel.run(f"# Parameters\n{injected}\n")
    with pytest.raises(error, match=message):
        check_parameters(kernel.namespace)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("n", "1e3", "n must be int, got 1000.0"),
        ("n", "None", "n must be int, got None"),
        ("n", "True", "n must be int, got True"),
        ("lr", "0,1", "lr must be float, got '0,1'"),
        ("name", "2024", "name must be str or None, got 2024"),
        ("name", "False", "name must be str or None, got False"),
    ],
)
def test_a_value_that_papermill_parsed_as_another_type_is_named(kernel, name, text, message):
    """What `-p name text` becomes, by papermill's own parser and translator."""
    from papermill.cli import _resolve_type
    from papermill.translators import PythonTranslator

    kernel.run(PythonTranslator.codify({name: _resolve_type(text)}, "Parameters"))
    with pytest.raises(TypeError, match=re.escape(message)):
        check_parameters(kernel.namespace)


def test_a_notebook_runs_again_in_the_same_kernel(kernel):
    """With another value, with its own variables about, and after a wrong parameter was mended."""
    own = "row = {'a': 1}\nn_used = n\ntotal = 0.5"
    for n in (10, 20):
        kernel.run(IMPORTS, PARAMETERS.replace("10", str(n)))
        check_parameters(kernel.namespace)
        kernel.run(own)
        assert kernel.namespace["n_used"] == n
    kernel.run(PARAMETERS, "# Parameters\nepoch = 3\n")
    with pytest.raises(ValueError, match="epoch is not a parameter"):
        check_parameters(kernel.namespace)
    kernel.run(PARAMETERS, "# Parameters\nn = 30\n")
    check_parameters(kernel.namespace)


@pytest.mark.slow
def test_wrong_parameter_stops_papermill_before_training(tmp_path):
    folder = tmp_path / "run"
    arguments = ["-p", "methd", "erm", "-p", "folder", str(folder)]
    done = run_papermill(NOTEBOOKS["05-one-run"], tmp_path / "out.ipynb", *arguments)
    assert done.returncode == 1
    assert "ValueError: methd is not a parameter of this notebook; it takes dataset, model, method" in done.stderr
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["agg", "inline"])
def test_pictures_reach_the_notebook_whatever_the_backend(tmp_path, backend):
    """Also where a cell imported pyplot before."""
    code = ["n: int = 3  # points", "import matplotlib.pyplot as plt\nfrom mmbook import notebook"]
    code += ["notebook.setup(globals())", "plt.plot(range(n))\nplt.show()"]
    cells = [
        {"cell_type": "code", "execution_count": None, "id": f"c{k}", "metadata": {}, "outputs": [], "source": source}
        for k, source in enumerate(code)
    ]
    cells[0]["metadata"]["tags"] = ["parameters"]
    kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content = {"cells": cells, "metadata": {"kernelspec": kernelspec}, "nbformat": 4, "nbformat_minor": 5}
    notebook, out = tmp_path / "picture.ipynb", tmp_path / "out.ipynb"
    notebook.write_text(json.dumps(content))
    name = "agg" if backend == "agg" else "module://matplotlib_inline.backend_inline"
    done = run_papermill(notebook, out, "-p", "n", "4", MPLBACKEND=name, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    outputs = json.loads(out.read_text())["cells"][-1]["outputs"]
    (output,) = (output for output in outputs if "data" in output)
    assert list(output["data"]) == ["image/png", "text/plain"]
    # Twice the pixels that it is shown with, and no height that would distort it in a narrow column.
    (width,) = output["metadata"]["image/png"].values()
    picture = Image.open(io.BytesIO(base64.b64decode(output["data"]["image/png"])))
    assert picture.width == pytest.approx(2 * width, abs=2)


def test_project_root_is_found_from_below(monkeypatch, tmp_path):
    (tmp_path / "mmlib").mkdir()
    (tmp_path / "mmlib" / "__init__.py").touch()
    inner = tmp_path / "notebooks" / "deeper"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert project_root() == tmp_path


@pytest.fixture
def sparse(tmp_path):
    """Images of four classes: one is in neither split, one in the train split alone, one in the test split alone."""
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
    labels = {"train": [0, 1] * 6, "test": [0, 3] * 6}
    arrays = {f"{part}_labels": np.array(values) for part, values in labels.items()}
    arrays |= dict.fromkeys(("train_images", "test_images"), images)
    np.savez(tmp_path / "mine.npz", class_names=np.array(["both", "train", "none", "test"]), **arrays)
    return tmp_path / "mine.npz"


def run_cell(sparse, **parameters):
    """Run chapter 5 as a grid's cell does, and return the process and the folder of the run."""
    folder = sparse.parent / "run"
    given = {"dataset": str(sparse), "folder": str(folder), "method": "erm", "epochs": 1} | parameters
    notebook, out = NOTEBOOKS["05-one-run"], sparse.parent / "out.ipynb"
    return run_papermill(notebook, out, "-y", json.dumps(given), TQDM_DISABLE="1"), folder


@pytest.mark.slow
def test_a_run_of_data_without_images_of_some_classes_is_saved(sparse):
    done, folder = run_cell(sparse, attacked_per_class=1, out_sets=["uniform"])
    assert done.returncode == 0, done.stderr
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert [accuracy is None for accuracy in metrics["class_accuracy"]] == [False, True, True, False]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        ("attacked_per_class", -1, "attacked_per_class must be an integer >= 0, got -1"),
        ("threads", 0, "threads must be an integer >= 1, got 0"),
    ],
)
def test_a_run_refuses_what_it_cannot_do_before_it_trains(sparse, parameter, value, message):
    done, folder = run_cell(sparse, **{parameter: value})
    assert done.returncode
    assert done.stderr.rstrip().endswith(f"ValueError: {message}")
    assert not folder.exists()
