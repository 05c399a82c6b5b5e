"""Every page of the built site in a real browser: complete, quiet, within its column, readable by everybody."""

import html.parser
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.browser.conftest import AXE, ROOT, SCREENSHOTS, SITE, pages

OBSERVE = Path(__file__).with_name("observe.js").read_text()
THEMES = ("light", "dark")
WIDTHS = (1280, 768, 390)
PAGES = pages() or [pytest.param("none", marks=pytest.mark.skip(reason="there is no site in build/site: `make book`"))]


@pytest.fixture(scope="module", params=["disk", "loopback"])
def origin(request):
    return SITE.as_uri() if request.param == "disk" else request.getfixturevalue("loopback")


@pytest.fixture(scope="module", params=PAGES)
def shown(request, tab, origin):
    """Open the page once for all tests."""
    tab.told.clear()
    tab.asked.clear()
    tab.set_viewport_size({"width": WIDTHS[0], "height": 900})
    tab.name, tab.origin = request.param, origin
    tab.goto(f"{origin}/{request.param}.html", wait_until="load")
    tab.evaluate(OBSERVE)
    return tab


def set_theme(tab, theme):
    tab.evaluate(f"document.documentElement.dataset.theme = document.documentElement.dataset.mode = '{theme}'")


def test_equations_are_typeset(shown):
    assert shown.evaluate("notTypeset()") == []


def test_images_have_a_size_and_an_alternative_text(shown):
    assert shown.evaluate("badImages()") == []


def test_nothing_runs_out_of_its_column(shown):
    found = {}
    for width in WIDTHS:
        shown.set_viewport_size({"width": width, "height": 900})
        for theme in THEMES:
            set_theme(shown, theme)
            found[width, theme] = shown.evaluate("overflow()")
            if shown.origin.startswith("file:"):
                folder = SCREENSHOTS / f"{theme}-{width}"
                shown.screenshot(path=folder / f"{shown.name.replace('/', '_')}.png", animations="disabled")
    set_theme(shown, "light")
    assert {key: offenders for key, offenders in found.items() if offenders} == {}


def test_the_console_is_quiet_and_nothing_is_asked_of_other_hosts(shown):
    assert shown.told == []
    assert [url for url in shown.asked if not url.startswith((shown.origin, "data:", "blob:"))] == []


@pytest.mark.parametrize("page", PAGES)
def test_axe_finds_nothing_serious(page, tab):
    if not AXE.exists():
        pytest.skip(f"there is no {AXE.relative_to(ROOT)}; `make test-browser` fetches it where npm is to be had")
    tab.set_viewport_size({"width": 1280, "height": 900})
    tab.goto(f"{SITE.as_uri()}/{page}.html", wait_until="load")
    tab.evaluate(OBSERVE)
    tab.evaluate(AXE.read_text())
    faults = tab.evaluate("axeFaults()")
    set_theme(tab, "dark")
    assert faults + [f"in the dark: {fault}" for fault in tab.evaluate("axeFaults(['color-contrast'])")] == []


@pytest.mark.parametrize("where", ["disk", "loopback"])
def test_search_finds_uniformity(where, tab, request):
    address = SITE.as_uri() if where == "disk" else request.getfixturevalue("loopback")
    tab.told.clear()
    tab.goto(f"{address}/search.html?q=uniformity")
    tab.wait_for_selector("#search-results li a", timeout=10_000)
    tab.wait_for_function("/found \\d+ page|Search finished/.test(document.querySelector('#search-results').innerText)")
    titles = tab.locator("#search-results li > a").all_inner_texts()
    assert "Metrics" in titles
    assert any(title in titles for title in ("The embedding space", "Comparing methods"))
    assert tab.told == []


class Links(html.parser.HTMLParser):
    """The ids of a page, and the addresses that it refers to."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.addresses = set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.ids.add(value)
            elif name in ("href", "src") and value is not None:
                self.addresses.add(value)


def test_links_and_anchors_resolve():
    if not SITE.exists():
        pytest.skip("there is no site in build/site; `make book` makes it")
    read = {path: Links(path.read_text()) for path in SITE.rglob("*.html") if "_static" not in path.parts}
    broken = []
    for page, links in read.items():
        for address in links.addresses:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            anchor = unquote(parts.fragment)
            known = read[target].ids if target in read else None
            if not target.exists() or (anchor and known is not None and anchor not in known | {"", "top"}):
                broken.append(f"{page.relative_to(SITE)}: {address}")
    assert sorted(broken) == []


def test_the_site_is_small():
    if not SITE.exists():
        pytest.skip("there is no site in build/site; `make book` makes it")
    assert sum(path.stat().st_size for path in SITE.rglob("*") if path.is_file()) < 60e6


def test_no_style_sheet_or_script_names_another_host():
    if not SITE.exists():
        pytest.skip("there is no site in build/site; `make book` makes it")
    loads = re.compile(r"@import|url\(\s*['\"]?https?:")
    own = [path for path in (SITE / "_static").glob("*.css") if loads.search(path.read_text())]
    assert own == []
