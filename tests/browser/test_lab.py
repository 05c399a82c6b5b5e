"""Every notebook in a real JupyterLab: opened in Chromium, all cells run, no error, a progress bar where one waits."""

import json
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from tests import clones

NOTEBOOKS = sorted(path.name for path in (clones.ROOT / "notebooks").glob("*.ipynb"))
MINUTES = 5  # that a notebook may take
RUN_ALL = "window.jupyterapp.commands.execute('notebook:run-all-cells')"
# The outputs of the notebook in front, and how many of its code cells have run.
OUTCOME = """() => {
    const cells = [...window.jupyterapp.shell.currentWidget.content.model.cells].map(cell => cell.toJSON());
    const code = cells.filter(cell => cell.cell_type === 'code');
    return {run: code.filter(cell => cell.execution_count).length, cells: code.length,
            outputs: code.flatMap(cell => cell.outputs)};
}"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_it_answers(address: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"{address}/api/status"):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Serve a copy of the book in JupyterLab, and return its address."""
    folder, port = clones.copy_tracked(tmp_path_factory.mktemp("book")), free_port()
    options = [f"--ServerApp.port={port}", f"--ServerApp.root_dir={folder}", "--IdentityProvider.token="]
    options += ["--no-browser", "--allow-root", "--LabApp.expose_app_in_browser=True", "--LabApp.news_url="]
    options += ["--LanguageServerManager.autodetect=False"]  # a type checker would run beside every notebook
    env = clones.environment(folder, JUPYTER_CONFIG_DIR=str(folder / "config"))
    command = [sys.executable, "-m", "jupyterlab", *options]
    with (folder / "lab.log").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)
        try:
            wait_until_it_answers(address := f"http://127.0.0.1:{port}")
            yield address
        finally:
            server.terminate()
            server.wait(30)


@pytest.fixture
def opened(browser, lab, request):
    """The notebook in front of a JupyterLab of its own, its kernel ready."""
    page = browser.new_page()
    page.set_default_timeout(60_000 * MINUTES)
    page.goto(f"{lab}/lab/tree/notebooks/{request.param}?reset")
    page.wait_for_function("window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'")
    yield page
    page.evaluate("window.jupyterapp.serviceManager.sessions.shutdownAll()")
    page.close()


@pytest.mark.parametrize("opened", NOTEBOOKS, indirect=True)
def test_all_cells_run_without_an_error(opened):
    assert opened.evaluate(RUN_ALL)
    outcome = opened.evaluate(OUTCOME)
    wrong = [of for of in outcome["outputs"] if of["output_type"] == "error" or of.get("name") == "stderr"]
    assert not wrong, json.dumps(wrong, indent=1)[:2000]
    assert outcome["run"] == outcome["cells"] > 0


@pytest.mark.parametrize("opened", ["05-one-run.ipynb"], indirect=True)
def test_a_progress_bar_is_shown_while_a_network_trains(opened):
    opened.evaluate("""() => {
        const cells = window.jupyterapp.shell.currentWidget.content.model.cells;
        for (const {sharedModel} of cells)
            sharedModel.setSource(sharedModel.source.replace('epochs: int = 5', 'epochs: int = 300'));
    }""")
    opened.evaluate(f"{{ window.ended = {RUN_ALL}; }}")
    bar = opened.locator("[role=progressbar], .widget-hprogress, .jupyter-widgets progress").first
    bar.wait_for()
    assert opened.evaluate("window.ended")
