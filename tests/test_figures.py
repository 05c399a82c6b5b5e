"""Pictures of notebooks against the stored ones: the measure by itself, and through `pytest --nbval`."""

import base64
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from tests import figures

ROOT = Path(__file__).parents[1]
SIZE = (120, 80)


def drawing(*, bar=40, line="purple", x=0, label="0.4", size=SIZE):
    """A bar so many pixels high, a line in a colour and a label, moved x pixels to the right."""
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((10 + x, 80 - bar, 30 + x, 79), fill="navy")
    draw.line((40 + x, 70, 110 + x, 50), fill=line, width=3)
    draw.text((60 + x, 5), label, fill="black", font_size=20)
    return picture


def png(picture):
    file = io.BytesIO()
    picture.save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize("change", [{"x": 1}, {"x": 2}, {"bar": 41}, {"line": "#880088"}])
def test_a_picture_may_move_or_fade_a_little(change):
    assert figures.difference(drawing(), drawing(**change)) < figures.LIMIT / 2
    assert figures.difference(drawing(**change), drawing()) < figures.LIMIT / 2


@pytest.mark.parametrize(
    "change", [{"x": 6}, {"bar": 46}, {"bar": 34}, {"line": "teal"}, {"line": "white"}, {"label": "0.6"}, {"label": ""}]
)
def test_a_changed_picture_differs_seen_from_either_side(change):
    assert figures.difference(drawing(), drawing(**change)) > figures.LIMIT
    assert figures.difference(drawing(**change), drawing()) > figures.LIMIT


def test_extremes():
    black, white = Image.new("RGB", SIZE, "black"), Image.new("RGBA", SIZE, "white")
    assert figures.difference(black, white) == pytest.approx(1)
    assert figures.difference(white, white) == 0


def test_both_pictures_of_a_pair_that_differs_are_left_and_only_those(tmp_path):
    same, stored, new = png(drawing()), png(drawing()), png(drawing(bar=60))
    folder = tmp_path / "build" / "figures"
    (line,) = figures.compare([same, stored], [same, new], folder, "chapter-cell3")
    left = {folder / "chapter-cell3-1-stored.png": stored, folder / "chapter-cell3-1-new.png": new}
    assert {path: path.read_bytes() for path in folder.iterdir()} == left
    assert line.startswith("picture 1: differs by ")
    assert all(str(path) in line for path in left)


def test_sizes_and_numbers_of_pictures_are_named(tmp_path):
    (line,) = figures.compare([png(drawing())], [png(drawing(size=(121, 80)))], tmp_path, "a")
    assert line.startswith("picture 0: stored 120 x 80 pixels, new 121 x 80")
    assert figures.compare([], [png(drawing())], tmp_path, "a") == ["the notebook has 0 pictures here, its run made 1"]


PRINT = "print(1 / 8)"
SHOW = f"""\
from IPython.display import display

display({{"image/png": "{base64.b64encode(png(drawing())).decode()}", "text/plain": "a figure"}}, raw=True)"""


def printed(text):
    return {"output_type": "stream", "name": "stdout", "text": text}


def shown(picture):
    data = {"image/png": base64.b64encode(png(picture)).decode(), "text/plain": "a figure"}
    return {"output_type": "display_data", "data": data, "metadata": {}}


def nbval(folder, cells, *prefix):
    """Run `pytest --nbval` on a notebook of these cells; return which cells pass, which fail, and what it says."""
    numbered = [
        {"cell_type": "code", "execution_count": count, "metadata": {"tags": tags}, "source": source, "outputs": [out]}
        for count, (source, out, tags) in enumerate(cells, 1)
    ]
    notebook = {"cells": numbered, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
    (folder / "tiny.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    shutil.copy(ROOT / "conftest.py", folder)
    shutil.copytree(ROOT / "tests" / "guard", folder / "tests" / "guard")
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "--color=no", "-rA", "--rootdir=."]
    run = subprocess.run(
        [*prefix, *command, "tiny.ipynb"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    said = run.stdout + run.stderr
    passed, failed = (
        re.findall(rf"^{word} tiny.ipynb::Cell (\d)", said, re.MULTILINE) for word in ("PASSED", "FAILED")
    )
    return passed, failed, said


@pytest.mark.slow
def test_nbval_fails_where_a_number_or_a_figure_changed_and_says_how(tmp_path):
    cells = [
        (PRINT, printed("0.125\n"), []),
        (PRINT, printed("0.126\n"), []),
        (SHOW, shown(drawing()), []),
        (SHOW, shown(drawing(bar=60)), []),
        (SHOW, shown(drawing(bar=60)), ["nbval-ignore-output"]),
    ]
    passed, failed, said = nbval(tmp_path, cells)
    assert (passed, failed) == (["0", "2", "4"], ["1", "3"]), said
    assert "Cell 1: Cell outputs differ" in said
    assert r"'0.126\n' == '0.125\n'" in said
    assert "Cell 3: Cell figures differ" in said
    assert "picture 0: differs by 1.000, where 0.04 is allowed" in said
    left = sorted(path.name for path in (tmp_path / "build" / "figures").iterdir())
    assert left == ["tiny-cell3-0-new.png", "tiny-cell3-0-stored.png"]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("setarch"), reason="needs setarch, which gives another processor's name")
@pytest.mark.parametrize(("machine", "compared"), [("x86_64", True), ("i686", False)])
def test_what_is_the_same_on_every_x86_64_is_compared_only_there(tmp_path, machine, compared):
    if platform.machine() != "x86_64":
        pytest.skip("setarch knows the names of x86 on x86-64 alone")
    cells = [(PRINT, printed("0.126\n"), ["x86-64"]), (SHOW, shown(drawing(bar=60)), ["x86-64"])]
    passed, failed, said = nbval(tmp_path, [*cells, (PRINT, printed("0.126\n"), [])], "setarch", machine)
    assert passed == ([] if compared else ["0", "1"]), said
    assert failed == (["0", "1", "2"] if compared else ["2"]), said
