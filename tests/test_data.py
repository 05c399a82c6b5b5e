"""Splits, mini-batches and files against literal loops, brute force and archives written here."""

import itertools
import pickle
import urllib.error

import numpy as np
import pytest
import torch
from matplotlib.path import Path as Outline
from PIL import Image
from scipy import stats

from mmlib.experiments.data import sources
from mmlib.experiments.data.batches import Batches
from mmlib.experiments.data.dataset import Dataset
from mmlib.experiments.data.shapes import SHAPES, draw_shapes, polygon
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


# Batches


def crops(image: np.ndarray, padding: int) -> dict[tuple[int, int, int], np.ndarray]:
    """All that augmentation can make of one (channels, h, w) image, pixel by pixel."""
    channels, h, w = image.shape
    made = {}
    for top, left, mirrored in itertools.product(range(2 * padding + 1), range(2 * padding + 1), range(2)):
        out = np.zeros_like(image)
        for channel, y, x in itertools.product(range(channels), range(h), range(w)):
            row, column = y + top - padding, (w - 1 - x if mirrored else x) + left - padding
            if 0 <= row < h and 0 <= column < w:
                out[channel, y, x] = image[channel, row, column]
        made[top, left, mirrored] = out
    return made


def draws(split: Split, batches: Batches, padding: int) -> np.ndarray:
    """The (top, left, mirrored) of every image of one epoch, (batches, m, 3): each must be one possible crop."""
    possible = [crops(image, padding) for image in split.images.numpy()]
    found = []
    for images, labels in batches:
        for image, label in zip((images * 255).round().byte().numpy(), labels):
            matches = [draw for draw, made in possible[label].items() if np.array_equal(made, image)]
            assert len(matches) == 1
            found.append(matches[0])
    return np.array(found).reshape(len(batches), -1, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_is_cropped_and_mirrored_by_its_own_uniform_draw(channels):
    padding, split = 1, noise(300, size=4, channels=channels)
    batches = Batches(split, 50, padding=padding, flip=True, generator=generator())
    epochs = np.concatenate([draws(split, batches, padding) for _ in range(3)])
    for of_batch in epochs:
        assert len(np.unique(of_batch, axis=0)) > 9  # of 18, in 50 draws
    cells = np.ravel_multi_index(epochs.reshape(-1, 3).T, (3, 3, 2))
    assert stats.chisquare(np.bincount(cells, minlength=18)).pvalue > 1e-3


def test_wider_padding_reaches_every_offset():
    split = noise(200, size=6, channels=1)
    found = draws(split, Batches(split, 100, padding=2, generator=generator()), 2).reshape(-1, 3)
    assert {tuple(draw[:2]) for draw in found} == set(itertools.product(range(5), range(5)))
    assert not found[:, 2].any()


def test_flip_alone_moves_nothing():
    split = noise(64)
    found = draws(split, Batches(split, 32, flip=True, generator=generator()), 0)
    assert 0.3 < found[..., 2].mean() < 0.7


def test_an_epoch_shows_every_image_once_in_a_new_order():
    split, orders = noise(60), []
    batches = Batches(split, 20, generator=generator())
    for _ in range(2):
        images, labels = (torch.cat(parts) for parts in zip(*batches))
        assert torch.equal(images, split.images[labels].float() / 255)
        assert sorted(labels.tolist()) == list(range(60))
        orders.append(labels.tolist())
    assert orders[0] != orders[1]
    assert list(range(60)) not in orders


@pytest.mark.parametrize(("n", "size", "m", "count"), [(10, 4, 4, 2), (8, 4, 4, 2), (3, 128, 3, 1), (1, 1, 1, 1)])
def test_the_size_of_a_mini_batch_is_constant(n, size, m, count):
    batches = Batches(noise(n), size, padding=1, flip=True, generator=generator())
    assert [len(labels) for _, labels in batches] == [m] * count
    assert len(batches) == count


def test_the_generator_is_the_only_source_of_randomness():
    def epochs(state: torch.Tensor, count: int) -> tuple[list[torch.Tensor], torch.Tensor]:
        source = torch.Generator()
        source.set_state(state)
        batches = Batches(noise(40), 16, padding=2, flip=True, generator=source)
        return [tensor for _ in range(count) for batch in batches for tensor in batch], source.get_state()

    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, half = epochs(generator(5).get_state(), 1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    two, _ = epochs(generator(5).get_state(), 2)
    rest, _ = epochs(half, 1)
    assert all(torch.equal(a, b) for a, b in zip(one + rest, two, strict=True))
    other, _ = epochs(generator(6).get_state(), 1)
    assert not torch.equal(one[0], other[0])


def test_order_and_augmentation_have_generators_of_their_own():
    def epoch(order: int, augmentation: int) -> tuple[torch.Tensor, torch.Tensor]:
        sources = {"generator": generator(order), "augmentation_generator": generator(augmentation)}
        return tuple(map(torch.cat, zip(*Batches(noise(40), 10, padding=2, flip=True, **sources))))

    images, labels = epoch(0, 1)
    assert torch.equal(labels, epoch(0, 2)[1])
    assert not torch.equal(images, epoch(0, 2)[0])
    assert torch.equal(labels, torch.randperm(40, generator=generator(0)))
    draws = generator(1)
    offsets = torch.randint(5, (2, 40), generator=draws)
    mirrored = torch.randint(2, (40,), generator=draws)
    for k, image in enumerate(images):
        made = crops(noise(40).images[labels[k]].numpy(), 2)
        expected = made[offsets[0, k].item(), offsets[1, k].item(), mirrored[k].item()]
        assert np.array_equal((image * 255).round().byte().numpy(), expected)


def test_more_processes_than_images_are_refused():
    with pytest.raises(ValueError, match="split must have an image for each of 5 processes, got 4"):
        Batches(noise(4), 2, shard=(4, 5))


def test_an_epoch_takes_its_draws_when_it_starts():
    source = generator()
    batches = iter(Batches(noise(40), 10, padding=1, flip=True, generator=source))
    next(batches)
    state = source.get_state()
    assert len(list(batches)) == 3
    assert torch.equal(source.get_state(), state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("augmentation", [{}, {"padding": 1, "flip": True}])
def test_batches_are_channels_last_whatever_the_split_is(dtype, augmentation):
    split = noise(12)
    last = Split(split.images.contiguous(memory_format=torch.channels_last), split.labels)
    for one, other in zip(*(Batches(s, 6, generator=generator(), dtype=dtype, **augmentation) for s in (split, last))):
        assert one[0].shape == (6, 3, 6, 6)
        assert one[0].dtype == dtype
        assert one[0].is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(one[0], other[0])


@pytest.mark.parametrize(
    ("options", "says"), [({"batch_size": 0}, "batch_size is 0"), ({"padding": -1}, "padding is -1")]
)
def test_batches_refuse(options, says):
    with pytest.raises(ValueError, match=f"{says}; it takes a whole number of at least"):
        Batches(noise(4), **{"batch_size": 2, **options})


# Splits and data sets


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


def test_to_keeps_everything():
    split = Split(*draw_shapes(6, seed=0))
    moved = split.to("meta")
    assert (moved.images.device.type, moved.labels.device.type, moved.boxes.device.type) == ("meta",) * 3
    assert split.to("cpu").fingerprint() == split.fingerprint()
    assert len(moved) == 6


@pytest.mark.parametrize(
    ("test", "says"),
    [
        (noise(5), "test labels hold classes 0 to 4; 4 class names take 0 to 3"),
        (Split(noise(2).images, torch.tensor([0, -1])), "test labels hold classes -1 to 0"),
        (noise(4, size=7), r"test images have shape \(3, 7, 7\); those of train have \(3, 6, 6\)"),
        (noise(0), "the test split has no images"),
    ],
)
def test_data_sets_refuse(test, says):
    with pytest.raises(ValueError, match=f"noise: {says}"):
        Dataset("noise", noise(4), None, test, ("a", "b", "c", "d"), 2, 0, False)


# Digits


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


# Shapes


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
    with pytest.raises(ValueError, match="count is 0; it takes"):
        draw_shapes(0, seed=0)


# Files


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """Eight colour images of each of three classes to train on, two to test."""
    rng = np.random.default_rng(0)
    return {
        "train_images": rng.integers(0, 256, (24, 16, 16, 3), dtype=np.uint8),
        "train_labels": rng.permutation(np.arange(24) % 3).astype(np.uint8)[:, None],
        "test_images": rng.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8),
        "test_labels": np.arange(6) % 3,
    }


def saved(folder, arrays) -> str:
    np.savez(folder / "set.npz", **arrays)
    return str(folder / "set.npz")


def test_npz(tmp_path, arrays):
    dataset = load(saved(tmp_path, arrays))
    assert np.array_equal(dataset.train.images.permute(0, 2, 3, 1), arrays["train_images"])
    assert dataset.train.labels.tolist() == arrays["train_labels"][:, 0].tolist()
    assert np.array_equal(dataset.test.images.permute(0, 2, 3, 1), arrays["test_images"])
    assert dataset.test.labels.tolist() == arrays["test_labels"].tolist()
    assert dataset.validation is None
    assert (dataset.name, dataset.class_names) == ("set", ("0", "1", "2"))
    assert (dataset.batch_size, dataset.padding, dataset.flip) == (128, 2, True)


def test_npz_in_grey_with_validation_and_names(tmp_path, arrays):
    grey = {key: value[..., 0] if key.endswith("images") else value for key, value in arrays.items()}
    grey |= {"val_images": grey["test_images"][:3], "val_labels": grey["test_labels"][:3]}
    dataset = load(saved(tmp_path, grey | {"class_names": np.array(["ant", "bee", "cat", "dog"])}))
    assert dataset.class_names == ("ant", "bee", "cat", "dog")
    assert np.array_equal(dataset.validation.images[:, 0], grey["val_images"])
    assert (dataset.channels, len(dataset.validation)) == (1, 3)
    with pytest.raises(ValueError, match="holdout_per_class is 1; set takes 0"):
        load(str(tmp_path / "set.npz"), holdout_per_class=1)


def test_labelled_and_held_out_images_are_exact_and_disjoint(tmp_path, arrays):
    name = saved(tmp_path, arrays)
    whole = load(name).train
    label_of = {image.numpy().tobytes(): int(label) for image, label in zip(whole.images, whole.labels)}
    runs = {
        (k, seed): load(name, labelled_per_class=k, holdout_per_class=3, seed=seed) for k in (2, 5) for seed in (0, 1)
    }
    for (k, _), run in runs.items():
        assert run.train.labels.bincount().tolist() == [k] * 3
        assert run.validation.labels.bincount().tolist() == [3] * 3
        assert same(run.validation, runs[2, 0].validation)
        for split in (run.train, run.validation):
            assert [label_of[image.numpy().tobytes()] for image in split.images] == split.labels.tolist()
        if k == 5:
            assert joined([run.train, run.validation]) == sorted(label_of)
        assert set(joined([runs[2, 0].train])) <= set(joined([runs[5, 0].train]))
    assert joined([runs[2, 0].train]) != joined([runs[2, 1].train])
    assert len(load(name, holdout_per_class=3).train) == 15


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"train_labels": None}, "has no train_labels; it holds train_images, test_images, test_labels"),
        ({"train_labels": np.arange(23)}, "train_labels hold 23 rows; 24 images"),
        ({"train_labels": np.zeros((24, 14), int)}, r"train_labels are int64 of shape \(24, 14\)"),
        ({"train_labels": np.zeros(24)}, "train_labels are float64"),
        ({"test_labels": np.array([0, 1, 2, 0, 1, -1])}, "test labels hold classes -1 to 2"),
        ({"class_names": np.array(["a", "b"])}, "train labels hold classes 0 to 2; 2 class names take 0 to 1"),
        (
            {"class_names": np.array(["a", 1, None], dtype=object)},
            "no .npz archive of arrays: Object arrays",
        ),
        ({"test_images": np.zeros((6, 16, 16, 3))}, r"test_images are float64 of shape \(6, 16, 16, 3\)"),
        ({"train_images": np.zeros((24, 16, 16, 16), np.uint8)}, r"train_images are uint8 of shape \(24, 16, 16, 16\)"),
        ({"train_images": np.zeros((24, 16, 12), np.uint8)}, "images are 16 x 12 pixels; they must be square"),
        ({"test_images": np.zeros((6, 16, 16), np.uint8)}, r"test images have shape \(1, 16, 16\)"),
        ({"test_images": np.zeros((0, 16, 16, 3), np.uint8), "test_labels": np.arange(0)}, "test split has no images"),
    ],
)
def test_npz_that_is_no_data_set(tmp_path, arrays, change, says):
    left = {key: value for key, value in (arrays | change).items() if value is not None}
    with pytest.raises(ValueError, match=says):
        load(saved(tmp_path, left))


@pytest.fixture
def folder(tmp_path, arrays):
    """The arrays as class folders, with what a file system leaves in them."""
    for part in ("train", "test"):
        for number, (image, label) in enumerate(zip(arrays[f"{part}_images"], arrays[f"{part}_labels"].ravel())):
            place = tmp_path / "pets" / part / ("cat", "ant", "bee")[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{number:02}.{('png', 'bmp', 'PNG')[number % 3]}")
            (place / "notes.txt").write_text("not an image")
            (place / "._00.png").write_text("not an image")
        (tmp_path / "pets" / part / ".ipynb_checkpoints").mkdir()
    return tmp_path / "pets"


def test_folder(folder, arrays):
    dataset = load(str(folder), labelled_per_class=8)
    assert dataset.class_names == ("ant", "bee", "cat")
    assert (dataset.name, dataset.padding, dataset.validation) == ("pets", 2, None)
    for part, split in (("train", dataset.train), ("test", dataset.test)):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"].reshape(-1)
        expected = [(number, images[k]) for number, old in enumerate((1, 2, 0)) for k in np.nonzero(labels == old)[0]]
        assert split.labels.tolist() == [label for label, _ in expected]
        assert np.array_equal(split.images.permute(0, 2, 3, 1), np.stack([image for _, image in expected]))


def test_folder_with_validation_and_grey_images(folder):
    for name in ("ant", "bee", "cat"):
        (folder / "val" / name).mkdir(parents=True)
        Image.new("L", (16, 16), 7).save(folder / "val" / name / "0.png")
    validation = load(str(folder)).validation
    assert validation.images.shape == (3, 3, 16, 16)
    assert validation.images.unique().tolist() == [7]


def test_folders_that_are_no_data_set(folder):
    Image.new("RGB", (16, 17)).save(folder / "train" / "bee" / "odd.png")
    with pytest.raises(ValueError, match=r"bee/odd.png has 16 x 17 pixels; .*ant/.* has 16 x 16"):
        load(str(folder))
    for file in (folder / "train" / "bee").iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match="train/bee has no images"):
        load(str(folder))
    (folder / "train" / "bee").rmdir()
    with pytest.raises(ValueError, match="differ in their classes: bee"):
        load(str(folder))
    with pytest.raises(FileNotFoundError, match="train has no folder 'train'"):
        load(str(folder / "train"))
    (folder / "val").mkdir()
    with pytest.raises(FileNotFoundError, match="val has no class folders"):
        load(str(folder))


# CIFAR


def old_pickle(path, content: dict) -> None:
    """As the archives were written: protocol 2, arrays with NumPy's align=0, copy=1 for False, True."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2).replace(b"\x89\x88\x87", b"K\x00K\x01\x87"))


@pytest.fixture
def planes(monkeypatch) -> np.ndarray:
    """Twelve images of 3 x 32 x 32; torchvision's checksums are those of the real archives, so none is asked for."""
    from torchvision import datasets

    for source in (datasets.CIFAR10, datasets.CIFAR100):
        for listed in ("train_list", "test_list"):
            monkeypatch.setattr(source, listed, [[name, None] for name, _ in getattr(source, listed)])
        monkeypatch.setattr(source, "meta", {**source.meta, "md5": None})
    monkeypatch.setattr(sources, "REAL", {})
    return np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)


def test_cifar10(tmp_path, planes):
    place = tmp_path / "cifar-10-batches-py"
    for number in range(6):
        name = f"data_batch_{number + 1}" if number < 5 else "test_batch"
        rows = planes[2 * number : 2 * number + 2].reshape(2, 3072)
        old_pickle(place / name, {"data": rows, "labels": [number, 9]})
    old_pickle(place / "batches.meta", {"label_names": list("abcdefghij")})
    dataset = load("cifar10", root=tmp_path)
    assert dataset.train.labels.tolist() == [0, 1, 2, 3, 4, 9, 9, 9, 9, 9]
    for label in range(10):
        ours = {bytes(image) for image in dataset.train.images[dataset.train.labels == label].contiguous().numpy()}
        held = planes[1:10:2] if label == 9 else planes[[2 * label]] if label < 5 else []
        assert ours == {bytes(image) for image in held}
    nines = [bytes(image) for image in dataset.train.images[-5:].permute(0, 2, 3, 1).contiguous().numpy()]
    assert nines == sorted(nines)  # one order whatever the source
    assert np.array_equal(dataset.test.images, planes[10:])
    assert dataset.test.labels.tolist() == [5, 9]
    assert dataset.class_names == tuple("abcdefghij")
    assert (dataset.name, dataset.batch_size, dataset.padding, dataset.flip) == ("cifar10", 128, 4, True)
    assert dataset.validation is None


def test_cifar100(tmp_path, planes):
    place = tmp_path / "cifar-100-python"
    fine = [0, 1, 2, 3, 0, 1, 2, 99]
    old_pickle(place / "train", {"data": planes[:8].reshape(8, 3072), "fine_labels": fine, "coarse_labels": [0] * 8})
    old_pickle(place / "test", {"data": planes[8:].reshape(4, 3072), "fine_labels": [4] * 4, "coarse_labels": [0] * 4})
    old_pickle(
        place / "meta", {"fine_label_names": [f"fine {k}" for k in range(100)], "coarse_label_names": ["coarse"]}
    )
    dataset = load("cifar100", root=tmp_path)
    assert dataset.train.labels.tolist() == sorted(fine)
    assert dataset.test.labels.tolist() == [4] * 4
    assert (dataset.classes, dataset.class_names[99]) == (100, "fine 99")
    with pytest.raises(ValueError, match="labelled_per_class is 2; class 'fine 3' has 1 images to choose from"):
        load("cifar100", root=tmp_path, labelled_per_class=2)
    arrays = {"train_images": planes[:8], "train_labels": fine, "test_images": planes[8:], "test_labels": [4] * 4}
    arrays = {key: np.moveaxis(value, 1, -1) if "images" in key else value for key, value in arrays.items()}
    (tmp_path / "npz").mkdir()
    np.savez(tmp_path / "npz" / "cifar100.npz", **arrays, class_names=dataset.class_names)
    assert load("cifar100", root=tmp_path / "npz").fingerprint == dataset.fingerprint


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_that_is_not_the_real_one(tmp_path, name):
    images, labels = np.zeros((10, 32, 32, 3), np.uint8), np.arange(10)
    parts = {
        f"{part}_{key}": value for part in ("train", "test") for key, value in (("images", images), ("labels", labels))
    }
    np.savez(tmp_path / f"{name}.npz", **parts, class_names=np.arange(10).astype(str))
    words = rf"does not hold the real {name}: \w+ has 10 images of shape \(3, 32, 32\), fingerprint \w+; it takes \w+"
    with pytest.raises(ValueError, match=words):
        load(name, root=tmp_path)


def test_cifar_without_a_network(tmp_path, monkeypatch):
    from torchvision import datasets

    def unreachable(self) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(datasets.CIFAR10, "download", unreachable)
    with pytest.raises(
        FileNotFoundError,
        match=f"cifar10 is not in root '{tmp_path}'; it takes .*cifar10.npz or torchvision's download: .*no net",
    ):
        load("cifar10", root=tmp_path)


def test_tinyimagenet_is_made_beforehand(tmp_path):
    takes = (
        f"it takes {tmp_path}/tinyimagenet.npz, which python -m mmlib.experiments.data.tinyimagenet '{tmp_path}' makes"
    )
    with pytest.raises(FileNotFoundError, match=f"tinyimagenet is not in root '{tmp_path}'; {takes}"):
        load("tinyimagenet", root=tmp_path)


# Arguments


@pytest.mark.parametrize("name", ["cifar1O", "", "Digits"])
def test_unknown_names(name):
    with pytest.raises(ValueError, match=rf"dataset is '{name}'; it takes digits, shapes, .* folder of class folders"):
        load(name)


def test_paths_that_are_not_there(tmp_path):
    for name in (tmp_path / "missing.npz", tmp_path / "missing"):
        with pytest.raises(FileNotFoundError, match=rf"dataset is '{name}', which is not there; it takes digits"):
            load(str(name))
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(ValueError, match=r"text\.npz is no \.npz archive"):
        load(str(tmp_path / "text.npz"))


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        (
            "digits",
            {"labelled_per_class": 0},
            "labelled_per_class is 0; it takes a whole number of at least 1",
        ),
        ("shapes", {"labelled_per_class": -3}, "labelled_per_class is -3"),
        ("digits", {"labelled_per_class": 88}, "labelled_per_class is 88; class '8' has 87 images to choose from"),
        ("digits", {"holdout_per_class": 5}, "holdout_per_class is 5; digits takes 0"),
        ("shapes", {"holdout_per_class": -1}, "holdout_per_class is -1; it takes a whole number of at least 0"),
        ("digits", {"seed": -1}, "seed is -1; it takes a whole number of at least 0"),
    ],
)
def test_numbers_that_classes_do_not_have(name, options, says):
    with pytest.raises(ValueError, match=says):
        load(name, **options)
