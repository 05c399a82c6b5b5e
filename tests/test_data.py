"""Splits, data sets and the arguments that choose them."""

import numpy as np
import pytest
import torch

from mmlib.experiments import models
from mmlib.experiments.data.dataset import Dataset
from mmlib.experiments.data.shapes import draw_shapes
from mmlib.experiments.data.sources import load
from mmlib.experiments.data.split import Split


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(n: int, size: int = 6, channels: int = 3, seed: int = 0) -> Split:
    """Images that no crop or mirroring can confuse, each labelled with its own number."""
    images = torch.randint(1, 256, (n, channels, size, size), generator=generator(seed), dtype=torch.uint8)
    return Split(images, torch.arange(n))


def joined(splits) -> list[bytes]:
    """Every image of some splits, sorted: equal lists are equal multisets."""
    return sorted(image.numpy().tobytes() for split in splits for image in split.images)


def same(one: Split, other: Split) -> bool:
    return torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


def test_moments_and_fingerprints():
    split = noise(50, size=5)
    dataset = Dataset("noise", split, None, noise(50, size=5, seed=1), tuple(map(str, range(50))), 8, 0, False)
    pixels = split.images.double().div(255).transpose(0, 1).flatten(1)
    assert dataset.moments[0] == pytest.approx(pixels.mean(dim=1).tolist(), abs=1e-12)
    assert dataset.moments[1] == pytest.approx(pixels.std(dim=1, correction=0).tolist(), abs=1e-12)
    assert (dataset.classes, dataset.channels, dataset.size) == (50, 3, 5)

    last = Split(split.images.contiguous(memory_format=torch.channels_last), split.labels.int())
    pixel, label, box = split.images.clone(), split.labels.clone(), torch.zeros(50, 4)
    pixel[7, 1, 2, 3] ^= 1
    label[7] = 8
    assert last.fingerprint() == split.fingerprint()
    changed = [split, Split(pixel, split.labels), Split(split.images, label), Split(split.images, split.labels, box)]
    changed.append(Split(split.images, split.labels, box.index_fill(0, torch.tensor([7]), 1.0)))
    wide = split.images.permute(0, 2, 3, 1).reshape(50, 1, 25, 3).permute(0, 3, 1, 2)
    changed.append(Split(wide, split.labels))
    assert len({one.fingerprint() for one in changed}) == len(changed)
    swapped = Dataset("noise", dataset.test, None, split, dataset.class_names, 8, 0, False)
    assert swapped.fingerprint != dataset.fingerprint


def test_a_channel_of_one_value_is_normalised_to_zero():
    images = noise(6).images
    images[:, 1] = 77
    split = Split(images, torch.arange(6))
    dataset = Dataset("noise", split, None, split, tuple("abcdef"), 2, 0, False)
    assert dataset.moments[1][1] == 1
    normalised = models.build("preactresnet-small", dataset).normalise(images / 255)
    assert normalised[:, 1].abs().max() < 1e-6
    assert normalised.isfinite().all()


def test_to_keeps_everything():
    split = Split(*draw_shapes(6, seed=0))
    moved = split.to("meta")
    assert (moved.images.device.type, moved.labels.device.type, moved.boxes.device.type) == ("meta",) * 3
    assert split.to("cpu").fingerprint() == split.fingerprint()
    assert len(moved) == 6


@pytest.mark.parametrize(
    ("test", "says"),
    [
        (noise(5), "test labels must be from 0 to 3 for 4 class names, got 0 to 4"),
        (
            Split(noise(2).images, torch.tensor([0, -1])),
            "test labels must be from 0 to 3 for 4 .*, got -1 to 0",
        ),
        (noise(4, size=7), r"test images must have the shape of train's, \(3, 6, 6\), got \(3, 7, 7\)"),
        (noise(0), "the test split must have images, got none"),
    ],
)
def test_data_sets_refuse(test, says):
    with pytest.raises(ValueError, match=f"noise: {says}"):
        Dataset("noise", noise(4), None, test, ("a", "b", "c", "d"), 2, 0, False)


def test_digits_are_all_of_scikit_learns():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    digits = load("digits")
    scaled = np.rint(bunch.images * 255 / 16).astype(np.uint8)[:, None]
    assert joined(digits.splits().values()) == sorted(image.tobytes() for image in scaled)
    label_of = {image.tobytes(): label for image, label in zip(scaled, bunch.target)}
    for split in digits.splits().values():
        assert [label_of[image.numpy().tobytes()] for image in split.images] == split.labels.tolist()
    assert (digits.size, digits.channels, digits.classes, digits.batch_size) == (8, 1, 10, 50)
    assert not digits.flip


def test_digits_are_tested_on_the_same_images_always():
    runs = [load("digits"), load("digits", seed=1), load("digits", labelled_per_class=40)]
    assert all(same(run.test, runs[0].test) for run in runs)
    assert [run.train.labels.bincount().tolist() for run in runs] == [[10] * 10, [10] * 10, [40] * 10]
    assert runs[0].test.labels.bincount().tolist() == [87] * 10
    assert [len(run.validation) for run in runs] == [827, 827, 527]
    assert joined([runs[0].train]) != joined([runs[1].train])
    assert set(joined([runs[0].train])) <= set(joined([runs[2].train]))
    assert load("digits", seed=1).fingerprint == runs[1].fingerprint != runs[0].fingerprint


@pytest.mark.parametrize("name", ["cifar1O", "", "Digits"])
def test_unknown_names(name):
    with pytest.raises(ValueError, match=rf"dataset must be digits, shapes, .* folder of class folders, got '{name}'"):
        load(name)


def test_paths_that_are_not_there(tmp_path):
    for name in (tmp_path / "missing.npz", tmp_path / "missing", "./missing", "missing/"):
        with pytest.raises(FileNotFoundError, match=rf"dataset must be digits, .*, got '{name}', which is not there"):
            load(str(name))
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(ValueError, match=r"text\.npz must be an \.npz archive"):
        load(str(tmp_path / "text.npz"))
    (tmp_path / "mine.zip").write_text("neither a folder nor an archive, but there")
    with pytest.raises(ValueError, match=r"dataset must be digits, .*, got '.*mine\.zip'$"):
        load(str(tmp_path / "mine.zip"))


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        (
            "digits",
            {"labelled_per_class": 0},
            "labelled_per_class must be an integer >= 1, got 0",
        ),
        ("shapes", {"labelled_per_class": -3}, "labelled_per_class must be an integer >= 1, got -3"),
        ("digits", {"labelled_per_class": 88}, "labelled_per_class must be at most 87, the images of '8', got 88"),
        ("digits", {"holdout_per_class": 5}, "holdout_per_class must be 0 for digits"),
        ("shapes", {"holdout_per_class": -1}, "holdout_per_class must be an integer >= 0, got -1"),
        ("digits", {"seed": -1}, "seed must be an integer >= 0, got -1"),
    ],
)
def test_numbers_that_classes_do_not_have(name, options, says):
    with pytest.raises(ValueError, match=says):
        load(name, **options)
