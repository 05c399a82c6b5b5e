"""`make book`: one line that says how far it is, a summary that says what failed, and a site that is always there."""

import os
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

from tools import serve, site
from tools.jobs import Progress

ROOT = Path(__file__).parents[1]
# What the repository's Snakefile makes, in miniature.
WORKFLOW = """
rule site:
    input: expand("build/notebooks/{chapter}.ipynb", chapter=["01-good", "02-bad"])
    output: update("build/site/_build/html/index.html")
    shell: "cat {input} > {output}"
rule cell:
    output: "runs/{grid}/{variant}/seed{seed}"
    log: "build/logs/{grid}-{variant}-{seed}.log"
    shell: "echo trained > {output}"
rule chapter:
    input: "runs/small/erm/seed0", "source"
    output: "build/notebooks/{chapter}.ipynb"
    log: "build/logs/chapters/{chapter}.log"
    shell:
        "echo 'ValueError: alpha must be > 0, got 0' > {log}; "
        "echo traceback > build/logs/chapters/{wildcards.chapter}.ipynb; "
        "test {wildcards.chapter} = 01-good || test -e sound && cp {log} {output}"
"""


def make_book(folder):
    command = [sys.executable, "-m", "tools.book", "--cores", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_make_book_says_what_it_did_and_what_failed(tmp_path):
    (tmp_path / "Snakefile").write_text(WORKFLOW)
    (tmp_path / "source").touch()
    (tmp_path / "sound").touch()
    index = tmp_path / "build/site/_build/html/index.html"
    where = f"The book: {index}  (`make serve` shows it at an address)"

    first, ran, *end = make_book(tmp_path).stdout.splitlines()
    assert first.startswith("0 of 1 cells, 0 of 2 chapters; ")
    assert ran.startswith("Ran 1 cell and 2 chapters in ")
    assert end == ["The site is built.", where]
    before = index.read_text()
    unchanged = make_book(tmp_path)
    assert unchanged.stdout.splitlines() == ["Nothing has changed since the last build.", where]

    (tmp_path / "sound").unlink()
    (tmp_path / "source").write_text("changed")
    failed = make_book(tmp_path)
    assert failed.returncode == 1
    _, failure, ran, *end = failed.stdout.splitlines()
    assert failure == "Failed: chapter 02-bad: ValueError: alpha must be > 0, got 0"
    assert ran.startswith("Ran 1 chapter in ")
    assert end == [
        failure,
        "  see build/logs/chapters/02-bad.log",
        "  see build/logs/chapters/02-bad.ipynb",
        "Not begun, for they need what failed: 1.",
        f"The site was not built; the one before is still there: {index}",
    ]
    assert index.read_text() == before


def test_time_left_is_the_mean_of_what_is_done_less_what_runs():
    progress = Progress(cores=2, now=0.0)
    progress.plan({"cell": 4, "chapter": 2, "total": 6})
    assert progress.left(5.0) is None
    for job in range(3):
        progress.introduce(job, "cell", {"grid": "digits", "variant": "erm", "seed": job}, [], [])
        progress.begin(job, 0.0 if job < 2 else 100.0)
    progress.finish(0, 100.0)
    progress.finish(1, 100.0)
    # Two cells and two chapters of 100 s are left on two cores, 40 s of them done.
    assert progress.left(140.0) == pytest.approx((400 - 40) / 2)
    assert progress.line(140.0) == (
        "2 of 4 cells, 0 of 2 chapters; running digits erm seed 2; 2 min so far, about 3 min left"
    )


def built(folder, words):
    folder.mkdir()
    (folder / "index.html").write_text(words)
    return folder


def test_a_site_is_swapped_in_and_the_one_before_removed(tmp_path):
    place = tmp_path / "site"
    built(place, "a folder, as sites were before")
    for words in ("first", "second"):
        site.publish(built(tmp_path / f"site.{words}", words), place)
        assert (place / "index.html").read_text() == words
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site", "site.second"]


def test_a_build_that_fails_leaves_the_site_as_it_was(tmp_path, monkeypatch, capsys):
    place = tmp_path / "site"
    site.publish(built(tmp_path / "site.before", "before"), place)
    monkeypatch.setattr(site, "stage", lambda folder, *_: (folder / "half.html").touch())
    failed = subprocess.CompletedProcess([], 2, "", "WARNING: undefined label")
    monkeypatch.setattr(site, "build", lambda _: failed)
    assert site.make(place, tmp_path, tmp_path) == 2
    assert "undefined label" in capsys.readouterr().err
    assert (place / "index.html").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site", "site.before"]


def test_serve_shows_what_is_swapped_in_while_it_runs(tmp_path):
    place = tmp_path / "site"
    with pytest.raises(FileNotFoundError, match=r"there is no site in .*; `make book` makes one"):
        serve.server(place, 0)
    site.publish(built(tmp_path / "site.first", "first"), place)
    with serve.server(place, 0) as book:
        thread = threading.Thread(target=book.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{book.server_port}/"
        for words in ("first", "second"):
            if words == "second":
                site.publish(built(tmp_path / "site.second", "second"), place)
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address) as answer:
                assert answer.read() == words.encode()
        book.shutdown()
        thread.join()
