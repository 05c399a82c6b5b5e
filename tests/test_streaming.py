"""Streamed images against Pillow's crop and resize, and against themselves with other workers, shares and starts."""

import dataclasses
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from mmlib.experiments import data, models, runs
from mmlib.experiments.__main__ import main
from mmlib.experiments.arguments import to_arguments
from mmlib.experiments.data.split import Split
from mmlib.experiments.data.streaming import ImageFiles, StreamedBatches
from mmlib.experiments.evaluation import predict
from mmlib.experiments.training.config import Config

SIZE = 16
# On a machine of one core two workers are one too many for the DataLoader's taste.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of shapes in three classes, no two of one size."""
    root, rng = tmp_path_factory.mktemp("photos") / "photos", np.random.default_rng(0)
    for part, count in (("train", 30), ("val", 6), ("test", 9)):
        images, _, _ = data.draw_shapes(count, seed=count)
        for k, image in enumerate(images):
            place = root / part / ("ant", "bee", "cat")[k % 3]
            place.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(rng.integers(24, 60, 2).tolist())
            picture.save(place / f"{k:02}.{('jpg', 'png')[k % 2]}")
    return root


@pytest.fixture(scope="module")
def photos(folder):
    return data.load(str(folder), size=SIZE)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def epochs(dataset, count=1, start=None, **options):
    """The mini-batches of some epochs, and the generator's state after them."""
    source = generator() if start is None else torch.Generator().set_state(start)
    batches = dataset.batches("cpu", 8, generator=source, **options)
    return [batch for _ in range(count) for batch in batches], source.get_state()


def equal(one, other):
    return all(torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


def as_float(picture):
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255


def test_a_folder_is_listed_and_not_read(folder, photos):
    for part, split in photos.splits().items():
        files = sorted((folder / part.replace("validation", "val")).glob("*/*"))
        assert [str(photos.test.images.root / name) for name in split.images.names] == [str(file) for file in files]
        assert [photos.class_names[label] for label in split.labels] == [file.parent.name for file in files]
        assert split.images.shape == (len(files), 3, SIZE, SIZE)
    assert (photos.name, photos.size, photos.channels, photos.classes) == ("photos", SIZE, 3, 3)
    assert photos.moments == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize("flip", [True, False])
def test_every_view_is_a_crop_of_its_own_resized_and_mirrored(photos, flip):
    (batches, _), source = epochs(dataclasses.replace(photos, flip=flip)), generator()
    order = torch.randperm(30, generator=source).tolist()
    seeds = torch.randint(2**32, (30,), generator=source).tolist()
    assert len(batches) == 3
    images, labels = (torch.cat(parts) for parts in zip(*batches))
    assert len(images) == 24
    mirrored = 0
    for k, image in enumerate(images):
        file = photos.train.images.root / photos.train.images.names[order[k]]
        picture = Image.open(file).convert("RGB")
        with torch.random.fork_rng():
            torch.manual_seed(seeds[k])
            top, left, h, w = RandomResizedCrop.get_params(picture, scale=(0.08, 1), ratio=(3 / 4, 4 / 3))
            turned = torch.rand(1).item() < 0.5 and flip
        expected = picture.crop((left, top, left + w, top + h)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        if turned:
            expected, mirrored = expected.transpose(Image.Transpose.FLIP_LEFT_RIGHT), mirrored + 1
        assert torch.equal(image, as_float(expected))
        assert labels[k] == photos.train.labels[order[k]]
    assert 4 < mirrored < 20 if flip else not mirrored


def test_evaluation_sees_the_centre_of_every_file_in_order(photos):
    images = torch.cat(list(photos.test.images.split(4)))
    assert [len(part) for part in photos.test.images.split(4)] == [4, 4, 1]
    for image, name in zip(images, photos.test.images.names, strict=True):
        picture = Image.open(photos.test.images.root / name).convert("RGB")
        w, h = picture.size
        short = round(SIZE * 256 / 224)
        w, h = (short, int(short * h / w)) if w < h else (int(short * w / h), short)
        left, top = round((w - SIZE) / 2), round((h - SIZE) / 2)
        expected = picture.resize((w, h), Image.Resampling.BILINEAR).crop((left, top, left + SIZE, top + SIZE))
        assert torch.equal(image / 255, as_float(expected))
    classifier = models.build("preactresnet-small", photos)
    predicted = predict(classifier, photos.test, batch_size=4).embeddings
    with torch.no_grad():
        torch.testing.assert_close(predicted, classifier.eval().embed(images / 255))


def test_workers_do_not_decide_the_result(folder, photos):
    for dtype in (torch.float32, torch.float64):
        alone, state = epochs(photos, 2, dtype=dtype)
        pool = data.load(str(folder), size=SIZE, workers=2)
        helped, state_of_pool = epochs(pool, 2, dtype=dtype)
        assert equal(alone, helped)
        assert torch.equal(state, state_of_pool)
        assert not equal(alone[:3], alone[3:])
        assert {image.dtype for image, _ in alone} == {dtype}
        assert all(image.is_contiguous(memory_format=torch.channels_last) for image, _ in alone + helped)
    assert equal(photos.test.images.split(4), pool.test.images.split(4))


def test_an_epoch_follows_from_the_generators_state_at_its_start(photos):
    whole, _ = epochs(photos, 3)
    first, state = epochs(photos, 1)
    torch.manual_seed(9)
    rest, _ = epochs(photos, 2, start=state)
    assert equal(first + rest, whole)


def test_the_global_generators_are_left_alone(folder):
    for workers in (0, 2):
        before = torch.get_rng_state()
        pool = data.load(str(folder), size=SIZE, workers=workers)
        epochs(pool)
        list(pool.test.images.split(4))
        assert torch.equal(torch.get_rng_state(), before)


def test_views_of_one_picture_are_independent(folder, photos):
    names = np.repeat(photos.train.images.names[:1], 64)
    split = Split(ImageFiles(folder, names, SIZE), torch.arange(64))
    images = [torch.cat([x for x, _ in StreamedBatches(split, 16, flip=True, generator=generator(k))]) for k in (0, 1)]
    assert len(torch.cat(images).flatten(1).unique(dim=0)) == 128


@pytest.mark.parametrize("workers", [0, 2])
def test_shares_part_an_epoch(folder, workers):
    photos = data.load(str(folder), size=SIZE, workers=workers)
    (images, labels), *none = photos.batches("cpu", 30, generator=generator())
    assert not none
    for k in range(3):
        share = list(photos.batches("cpu", 5, generator=generator(), shard=(k, 3)))
        assert len(share) == 2
        assert torch.equal(torch.cat([part for part, _ in share]), images[k::3])
        assert torch.equal(torch.cat([part for _, part in share]), labels[k::3])


def test_parts_of_a_split(folder, photos):
    few = data.load(str(folder), size=SIZE, labelled_per_class=4, seed=1)
    assert few.train.labels.bincount().tolist() == [4, 4, 4]
    assert set(few.train.images.names) < set(photos.train.images.names)
    classes = [photos.class_names[label] for label in few.train.labels]
    assert [name.split("/")[1] for name in few.train.images.names] == classes
    part = photos.test[torch.tensor([8, 2])]
    assert equal([list(part.images.split(9))], [[torch.cat(list(photos.test.images.split(9)))[[8, 2]]]])


def test_fingerprint_follows_names_lengths_labels_and_size(folder, photos, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "elsewhere" / "photos")
    assert data.load(str(copy), size=SIZE, workers=1).fingerprint == photos.fingerprint
    found = {photos.fingerprint, data.load(str(copy), size=SIZE + 1).fingerprint}
    with (copy / "train" / "ant" / "00.jpg").open("ab") as file:
        file.write(b"0")
    found.add(data.load(str(copy), size=SIZE).fingerprint)
    (copy / "test" / "bee" / "01.png").rename(copy / "test" / "bee" / "00.png")
    found.add(data.load(str(copy), size=SIZE).fingerprint)
    (copy / "test" / "bee" / "00.png").rename(copy / "test" / "cat" / "00.png")
    found.add(data.load(str(copy), size=SIZE).fingerprint)
    assert len(found) == 5
    labels = photos.test.labels.flip(0)
    assert Split(photos.test.images, labels).fingerprint() != photos.test.fingerprint()


@pytest.mark.faults
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("share", [0, 0.5, 0.9])
@pytest.mark.parametrize("name", ["bee/04.jpg", "bee/01.png"])
def test_a_file_that_is_not_whole_is_named_in_one_line(folder, tmp_path, name, share, workers):
    file = shutil.copytree(folder, tmp_path / "photos") / "train" / name
    os.truncate(file, int(file.stat().st_size * share))
    with pytest.raises(ValueError, match=f"{file} cannot be read as an image: ") as caught:
        epochs(data.load(str(tmp_path / "photos"), size=SIZE, workers=workers))
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_pictures_of_any_mode_are_in_colour(tmp_path, mode):
    colour = (10, 10, 10) if mode in ("1", "L", "LA") else (255, 0, 0)
    colour = (255, 255, 255) if mode == "1" else colour
    picture = Image.new("RGB", (20, 30), colour).convert(mode)
    picture.save(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"))
    (name,) = (file.name for file in tmp_path.iterdir())
    (image,) = ImageFiles(tmp_path, np.array([name]), SIZE).split(1)
    assert image[0].flatten(1).unique(dim=1).flatten().tolist() == list(colour)


def test_more_than_8_bits_a_channel_are_refused(tmp_path):
    Image.fromarray(np.full((20, 20), 3000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep.png cannot be read as an image: .* more than 8 bits"):
        next(ImageFiles(tmp_path, np.array(["deep.png"]), SIZE).split(1))


@pytest.mark.slow
def test_a_run_from_the_command_line(folder, tmp_path):
    records = []
    for workers in (0, 2):
        place = tmp_path / f"workers{workers}" / "photos" / "preactresnet-small" / "multimix" / "seed0"
        settings = {"dataset": str(folder), "size": 16, "method": "multimix", "options": {"num_mixtures": 20}}
        settings |= {"epochs": 3, "batch_size": 10, "threads": 1, "folder": str(place)}
        main(to_arguments(settings | {"workers": workers}))
        records.append(runs.load_run(place))
    alone, helped = records
    assert alone.config == helped.config
    assert (alone.config["size"], alone.config["dataset"]) == (16, "photos")
    assert [row["loss"] for row in alone.history] == [row["loss"] for row in helped.history]
    assert alone.metrics == helped.metrics
    assert 0 <= alone.metrics["validation_accuracy"] <= 100
    with pytest.raises(ValueError, match="whose size is 16, not 24"):
        main(to_arguments(settings | {"size": 24}))


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("digits", {"size": 8}, "size must be None for digits, got 8: only images of a folder"),
        ("set.npz", {"size": 8}, "size must be None for set.npz, got 8"),
        ("", {"size": 0}, "size must be an integer >= 1, got 0"),
        ("", {"size": SIZE, "workers": -1}, "workers must be an integer >= 0, got -1"),
        ("", {}, r"`size` brings images to one size"),
    ],
)
def test_what_cannot_be_is_refused(folder, name, options, says):
    with pytest.raises(ValueError, match=says):
        data.load(name or str(folder), **options)


def test_size_is_part_of_the_configuration():
    with pytest.raises(ValueError, match="size must be an integer >= 1, got 0"):
        Config(size=0)
