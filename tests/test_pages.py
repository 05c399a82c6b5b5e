"""What is mended in built pages, on excerpts as Sphinx and the theme write them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools import pages

ROOT = Path(__file__).parents[1]
SOURCES = [*sorted((ROOT / "notebooks").glob("*.ipynb")), *sorted((ROOT / "book").rglob("*.md"))]
PAGES = [page for page in SOURCES if page.suffix == ".md"]
LABELS = {label for page in PAGES for label in re.findall(r"^\(([\w-]+)\)=$", page.read_text("utf-8"), re.MULTILINE)}


def test_nothing_is_loaded_from_another_host_or_refused_from_a_disk(tmp_path):
    text = (
        '<link rel="preload" as="font" type="font/woff2" crossorigin href="../_static/vendor/fa-solid-900.woff2" />\n'
        '<script src="../_static/vendor/fontawesome/6.5.2/js/all.min.js?digest=1"></script>\n'
        '<script>const THEBE_JS_URL = "https://unpkg.com/thebe@0.8.2/lib/index.js"; const thebe = ".cell"</script>\n'
        '<script async="async" src="../_static/sphinx-thebe.js?v=1"></script>\n'
        '<script type="text/x-thebe-config">\n{ requestKernel: true }\n</script>\n'
        "<script>kernelName = 'python3'</script>\n"
        '<script src="../_static/copybutton.js"></script>'
    )
    left = pages.finished(tmp_path / "page.html", text)
    assert re.findall(r'(?:src|href)="([^"]*)"', left) == ["../_static/copybutton.js"]
    assert "unpkg" not in left
    assert "kernelName" not in left


def test_images_get_the_size_that_their_files_have(tmp_path):
    (tmp_path / "_images").mkdir()
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "_images" / "a b.png")
    page = tmp_path / "chapter" / "page.html"
    page.parent.mkdir()
    given = '<p><img alt="two &lt; three" src="../_images/a%20b.png" /></p>'
    sized = pages.finished(page, given)
    assert 'width="30" height="20"' in sized
    assert 'alt="two &lt; three"' in sized
    assert pages.finished(page, sized) == sized
    for left_alone in ('<img src="data:image/png;base64,AA==">', '<img width="10" src="../_images/a%20b.png"/>'):
        assert pages.finished(page, left_alone) == left_alone


def test_a_signature_is_no_definition_list_and_fields_read_as_sentences(tmp_path):
    text = (
        '<dl class="py"><dt class="sig sig-object py" id="f"><span>f</span>(\n'
        "<dl>\n<dd><em>x: int</em>,</dd>\n</dl>)</dt>"
        "<dd><ul><li><p><strong>x</strong> (<em>int</em>) -- how many.</p></li>"
        "<li><p><strong>y</strong> -- a flag, as in <code>make -- y</code>.</p></li></ul></dd></dl>"
    )
    mended = pages.finished(tmp_path / "page.html", text)
    assert '<div class="sig-params">\n<div><em>x: int</em>,</div>\n</div>)</dt>' in mended
    assert mended.count("<dl") == mended.count("</dl>") == 1
    assert "<strong>x</strong> (<em>int</em>): how many." in mended
    assert "<strong>y</strong>: a flag, as in <code>make -- y</code>." in mended


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_links_name_files_so_that_they_work_in_jupyter_and_beside_the_code(source):
    """Or a label of the book, which only the site knows."""
    text = source.read_text(encoding="utf-8")
    if source.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n".join("".join(cell["source"]) for cell in cells)
    text = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    broken = [
        target
        for target in targets
        if not re.match(r"https?:|mailto:", target) and target not in LABELS and not (source.parent / target).is_file()
    ]
    assert broken == []
