"""Chromium over the built site and over JupyterLab; skipped, with the reason, where one is missing."""

import functools
import http.server
import shutil
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SITE = ROOT / "build" / "site" / "_build" / "html"
AXE = ROOT / "build" / "node_modules" / "axe-core" / "axe.min.js"
SCREENSHOTS = ROOT / "build" / "screenshots"
# It asks nothing of other hosts by itself, and runs as root too, as in a container.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def pages():
    """Return the pages of the built site by their paths without .html; the listings of source code are left out."""
    found = (path.relative_to(SITE).with_suffix("") for path in sorted(SITE.rglob("*.html")))
    left_out = ("_static", "_modules", "index")  # the last only leads on to the first page
    return [str(page) for page in found if page.parts[0] not in left_out]


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no chromium; on Debian `apt-get install chromium` installs it")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def loopback():
    """Serve the site on this machine and return its address."""
    handler = functools.partial(Quiet, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def tab(browser):
    """Return one tab for every test, which keeps what it was told of errors and requests in `told` and `asked`."""
    if not (SITE / "index.html").exists():
        pytest.skip("there is no site in build/site; `make book` makes it")
    context = browser.new_context(color_scheme="light")
    tab = context.new_page()
    tab.told, tab.asked = [], []
    tab.on("console", lambda message: message.type == "error" and tab.told.append(message.text))
    tab.on("pageerror", lambda error: tab.told.append(str(error)))
    tab.on("request", lambda request: tab.asked.append(request.url))
    yield tab
    context.close()
