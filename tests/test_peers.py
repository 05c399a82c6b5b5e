"""The benchmark of peers: a line for each comparison and each peer that is not there, and like compared with like."""

import importlib
import json
import re
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]

# A release of ζ-mixup, with a module of a common name beside it.
UTILS = """
import torch

def weights(m, gamma):
    ranks = torch.rand(m, m).fill_diagonal_(-1).argsort(1).argsort(1) + 1.0
    return ranks**-gamma / (ranks**-gamma).sum(1, keepdim=True)
"""
RELEASE = """
import torch
from utils import weights

def zeta_mixup(x, y, num_classes, gamma=2.8):
    w = weights(len(x), gamma)
    return torch.einsum("nm,mcyx->ncyx", w, x), w @ torch.eye(num_classes)[y]
"""


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("peers")


@pytest.fixture
def batch(peers):
    return peers.Batch(16, 8)


@pytest.fixture
def release(tmp_path):
    (tmp_path / "utils.py").write_text(UTILS)
    (tmp_path / "zeta_mixup.py").write_text(RELEASE)
    return tmp_path


def test_a_line_for_each_comparison_and_each_release_that_is_not_there(peers, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["peers.py", "--quick", "--out", str(tmp_path)])
    peers.main()
    lines = capsys.readouterr().out.splitlines()
    skipped = [line for line in lines if "skipped" in line]
    assert [line.split("'")[0] for line in skipped] == list(peers.RELEASES)
    assert all(
        f"--release {name}=FOLDER, a clone of github.com/" in line for name, line in zip(peers.RELEASES, skipped)
    )
    compared = [re.match(r"(\S+) +(\S+).* ms  (\S+) .* ms +\d+\.\d\d  ", line) for line in lines]
    compared = [found.groups() for found in compared if found]
    expected = [
        (name, what, peer)
        for peer in ("timm", "torchvision")
        for name in ("mixup", "cutmix")
        for what in ("mixing", "step,")
    ]
    expected += [("multimix", what, peer) for what in ("step,", "loss") for peer in ("formula", "cross-entropy")]
    assert compared == expected
    (written,) = (json.loads(path.read_text()) for path in tmp_path.iterdir())
    assert len(written["rows"]) == len(compared)
    for row in written["rows"]:
        assert row["ratio"] == row["ratios"][0] == row["ours_ms"] / row["theirs_ms"]


def test_ratio_is_ours_over_theirs_each_on_a_fresh_copy(peers, batch):
    seen = []

    def theirs(images, labels):
        seen.append((images.sum().item(), labels))
        images.zero_()

    def ours(images, labels):
        theirs(images, labels)
        time.sleep(0.1)

    comparison = peers.Comparison("method", "peer", "what", ours, theirs, batch.images, batch.labels)
    (row,) = peers.measure([comparison], rounds=3, seconds=0)
    assert seen == [(batch.images.sum().item(), batch.labels)] * 8  # a round that does not count, and three
    assert len(row["ratios"]) == 3
    assert row["ratio"] > 1
    assert row["ours_ms"] > 100


def test_a_package_that_is_not_there_is_skipped_in_one_line(peers, batch, monkeypatch, capsys):
    for name in ("timm", "timm.data"):
        monkeypatch.setitem(sys.modules, name, None)
    found = peers.with_packages(batch)
    assert {comparison.peer for comparison in found} == {"torchvision", "formula", "cross-entropy"}
    assert re.fullmatch(r"timm: skipped: .*; it takes pip install timm\n", capsys.readouterr().out)


def test_released_code_is_compared_and_its_names_are_forgotten(peers, batch, release, capsys):
    found = peers.with_releases(batch, {"zeta_mixup": release})
    assert [(comparison.method, comparison.note) for comparison in found] == [("zeta_mixup", peers.SAME)] * 2
    assert "zeta_mixup" not in capsys.readouterr().out
    assert "zeta_mixup" not in sys.modules
    assert str(release) not in sys.path
    assert not str(getattr(sys.modules.get("utils"), "__file__", "")).startswith(str(release))
    ours, theirs = peers.call_times(found[1], 0)
    assert min(ours, theirs) > 0


@pytest.mark.parametrize(
    ("line", "other"),
    [("w @ torch", "w.T @ torch"), ('"nm,mcyx', '"mn,mcyx'), ("weights(len(x)", "1.01 * weights(len(x)")],
)
def test_what_computes_something_else_is_not_timed(peers, batch, release, line, other):
    (release / "zeta_mixup.py").write_text(RELEASE.replace(line, other))
    with pytest.raises(AssertionError, match="not close"):
        peers.with_releases(batch, {"zeta_mixup": release})


def paste(images, labels, peers, share):
    mixed = images.clone()
    mixed[..., 2:7, 4:8] = images.roll(1, 0)[..., 2:7, 4:8]
    targets = torch.eye(peers.CLASSES)[labels]
    return mixed, torch.lerp(targets.roll(1, 0), targets, share)


def test_other_boxes_partners_or_targets_would_be_noticed(peers, batch):
    ours, theirs = peers.transforms.CutMix(num_classes=peers.CLASSES), partial(paste, peers=peers, share=1 - 20 / 256)
    peers.check_same(ours, theirs, batch.images, peers.drawn_pairs)
    for other in ({"cutmix_box": (slice(2, 7), slice(4, 9))}, {"draw_pairs": (torch.arange(8).flip(0), 0.5)}):
        with pytest.raises(AssertionError, match="not close"):
            peers.check_same(ours, theirs, batch.images, lambda *drawn, other=other: peers.drawn_pairs(*drawn) | other)
    with pytest.raises(AssertionError, match="not close"):
        peers.check_same(ours, partial(theirs, share=1 - 21 / 256), batch.images, peers.drawn_pairs)


def test_a_folder_without_the_release_is_skipped(peers, batch, tmp_path, capsys):
    assert peers.with_releases(batch, dict.fromkeys(peers.RELEASES, tmp_path)) == []
    assert capsys.readouterr().out.count("skipped: No module named") == len(peers.RELEASES)


@pytest.mark.parametrize("text", ["puzzlemix", "puzzle=folder", "puzzlemix="])
def test_a_release_is_a_name_and_a_folder(peers, text, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["peers.py", "--release", text])
    with pytest.raises(SystemExit):
        peers.main()
    assert (
        f"must be NAME=FOLDER, NAME one of manifold_mixup, .*, got '{text}'".split(", .*")[0] in capsys.readouterr().err
    )
