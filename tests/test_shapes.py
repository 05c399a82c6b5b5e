"""Drawn shapes and their boxes against brute force."""

import itertools

import numpy as np
import pytest
import torch
from matplotlib.path import Path as Outline

from mmlib.experiments.data.dataset import Dataset
from mmlib.experiments.data.shapes import SHAPES, draw_shapes, polygon
from mmlib.experiments.data.sources import load


def joined(splits) -> list[bytes]:
    """Every image of some splits, sorted: equal lists are equal multisets."""
    return sorted(image.numpy().tobytes() for split in splits for image in split.images)


@pytest.fixture(scope="module")
def shapes() -> Dataset:
    return load("shapes")


def test_shapes_are_held_out_on_the_same_images_always(shapes):
    other = load("shapes", labelled_per_class=7, seed=1)
    assert other.validation.fingerprint() == shapes.validation.fingerprint()
    assert other.test.fingerprint() == shapes.test.fingerprint()
    assert other.train.labels.bincount().tolist() == [7] * 10
    assert shapes.train.labels.bincount().tolist() == [40] * 10
    assert shapes.test.labels.bincount().tolist() == [200] * 10
    assert shapes.validation.labels.bincount().tolist() == [100] * 10
    images = joined([*shapes.splits().values(), other.train])
    assert len(set(images)) == len(images)


def test_shapes_are_the_ones_that_the_recorded_runs_saw(shapes):
    assert shapes.fingerprint == "e65c3c64d945d8e4"


def test_boxes_are_the_tightest_around_what_a_shape_changes(monkeypatch):
    images, labels, boxes = draw_shapes(200, seed=3)
    for name in SHAPES:
        monkeypatch.setitem(SHAPES, name, lambda x, y: np.full_like(x, 9.0))
    empty, same_labels, _ = draw_shapes(200, seed=3)
    assert torch.equal(labels, same_labels)
    changed = (images != empty).any(dim=1).numpy()
    slack = []
    for mask, (x0, y0, x1, y1) in zip(changed, boxes.int().tolist()):
        rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
        slack.append([columns[0] - x0, rows[0] - y0, x1 - 1 - columns[-1], y1 - 1 - rows[-1]])
    slack = np.array(slack)
    assert slack.min() == 0  # nothing changed outside a box
    assert slack.max() <= 1  # coverage too faint for a byte
    assert (slack == 0).mean() > 0.9
    assert boxes.min() >= 0
    assert boxes.max() <= 32
    assert 8 < (boxes[:, 2:] - boxes[:, :2]).mean() < 22


def test_polygons_keep_their_distance():
    corners = ((0.0, -1.0), (0.8, 0.1), (0.1, 0.0), (0.3, 0.9), (-0.7, 0.5))
    x, y = np.random.default_rng(0).uniform(-1.5, 1.5, (2, 300))
    distance = polygon(*corners)(x, y)
    ends = np.array(corners)
    t = np.linspace(0, 1, 501)[:, None, None]
    border = ((1 - t) * ends + t * np.roll(ends, -1, axis=0)).reshape(-1, 2)
    nearest = np.sqrt(((np.stack([x, y], 1)[:, None] - border) ** 2).sum(axis=2)).min(axis=1)
    np.testing.assert_allclose(np.abs(distance), nearest, atol=2e-3)
    assert np.array_equal(distance < 0, Outline(ends).contains_points(np.stack([x, y], 1)))


def test_shapes_lie_in_the_unit_circle_and_their_edges_are_ramps():
    axis = np.linspace(-1.2, 1.2, 121)
    x, y = np.meshgrid(axis, axis)
    for distance in SHAPES.values():
        d = distance(x, y)
        assert (d < 0).mean() > 0.1
        assert d[np.hypot(x, y) > 1 + 1e-9].min() > 0
        # No distance changes faster than the way to walk, or coverage would jump.
        assert max(np.abs(np.diff(d, axis=axis)).max() for axis in (0, 1)) <= 0.02 + 1e-9


def test_no_shape_is_another_turned_moved_or_scaled():
    """Hu's moments do not change under any of the three."""
    axis = np.linspace(-1.1, 1.1, 221)
    x, y = np.meshgrid(axis, axis)
    signatures = []
    for distance in SHAPES.values():
        inside = distance(x, y) < 0
        z = x[inside] + 1j * y[inside]
        z = (z - z.mean()) / np.sqrt(inside.sum() * 0.01**2)
        moments = [(np.abs(z) ** 2).mean()] + [
            abs((z**k * np.abs(z) ** 2).mean()) ** (1 / (k + 2)) for k in range(1, 7)
        ]
        signatures.append(moments)
    gaps = [np.abs(np.subtract(a, b)).max() for a, b in itertools.combinations(signatures, 2)]
    assert len(signatures) == 10
    assert min(gaps) > 0.05


@pytest.mark.parametrize("count", [1, 23])
def test_any_number_of_shapes(count):
    images, labels, boxes = draw_shapes(count, seed=0)
    assert (len(images), len(labels), len(boxes)) == (count,) * 3
    sizes = labels.bincount(minlength=10)
    assert sizes.max() - sizes.min() <= 1
    assert torch.equal(draw_shapes(count, seed=0)[0], images)
    assert not torch.equal(draw_shapes(count, seed=1)[0], images)


def test_shapes_refuse():
    with pytest.raises(ValueError, match="count must be an integer >= 1, got 0"):
        draw_shapes(0, seed=0)
