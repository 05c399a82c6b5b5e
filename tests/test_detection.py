"""Detectors: their data sets, their backbones, the metric, and runs from start to record."""

import json
import os
import platform
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.datasets import CocoDetection, VOCDetection, wrap_dataset_for_transforms_v2

import mmbook.detection.__main__
from mmbook import detection, grids, ledger, scenes
from mmbook.detection import Config, mean_average_precision, training
from mmbook.detection.detectors import seeded
from mmbook.notebook import project_root
from mmbook.scenes import draw_canvas
from mmlib.experiments import models, runs
from mmlib.experiments.data import shapes
from mmlib.experiments.processor import COMMON_INSTRUCTIONS

TINY = {"train_images": 8, "epochs": 1, "batch_size": 4}


@pytest.fixture
def plain(monkeypatch):
    """White shapes on black, without clutter: whatever is not black is a shape."""
    for name in ("GROUND", "FILL", "NOISE"):
        monkeypatch.setattr(shapes, name, 0.0)
    for name, limits in (("DARK", (0.0, 0.0)), ("STROKE", (0.0, 0.0)), ("LIGHT", (1.0, 1.0))):
        monkeypatch.setattr(shapes, name, limits)


@pytest.fixture
def few(monkeypatch):
    """Held-out splits that take no time to draw."""
    monkeypatch.setattr(scenes, "VALIDATION", 4)
    monkeypatch.setattr(scenes, "TEST", 6)


def blobs(image):
    """x0, y0, x1, y1 of every connected piece that is not black; a star's faint tip can be a pixel apart from it."""
    pieces, _ = ndimage.label(np.asarray(image).max(axis=0) > 0, np.ones((3, 3)))
    sizes = np.bincount(pieces.ravel())[1:]
    found = [slices for slices, size in zip(ndimage.find_objects(pieces), sizes) if size > 3]
    return [[columns.start, rows.start, columns.stop, rows.stop] for rows, columns in found]


# Canvases


@pytest.mark.parametrize("size", [64, 96])
def test_every_shape_of_a_canvas_is_apart_and_in_its_box(plain, size):
    slack = []
    for i in range(60):
        image, labels, boxes = draw_canvas((5, i), size=size)
        found = blobs(image)
        assert image.shape == (3, size, size)
        assert len(labels) == len(boxes) == len(found) <= 4  # nothing hidden, nothing touching
        for x0, y0, x1, y1 in found:
            outside = [[x0 - a, y0 - b, c - x1, d - y1] for a, b, c, d in boxes.tolist()]
            slack.append(min(outside, key=lambda gaps: np.abs(gaps).max()))
    assert np.min(slack) == 0
    assert np.max(slack) <= 1  # coverage too faint for a byte
    assert np.mean(slack) < 0.1


def test_label_of_a_canvas_is_the_shape_in_the_box(plain):
    """Upright or not, a disc fills most of its box, a ring less by its hole, and a star the least."""
    filled = {name: [] for name in shapes.SHAPES}
    for i in range(60):
        image, labels, boxes = draw_canvas((6, i))
        for label, (x0, y0, x1, y1) in zip(labels.tolist(), boxes.int().tolist()):
            filled[list(filled)[label]].append((image[0, y0:y1, x0:x1] > 127).float().mean().item())
    share = {name: np.mean(values) for name, values in filled.items()}
    assert share["disc"] == max(share.values())
    assert share["ring"] / share["disc"] == pytest.approx(1 - (0.48 / 0.92) ** 2, abs=0.04)
    assert share["star"] == min(share.values())


def test_canvases_are_the_same_by_index_and_held_out_ones_for_every_seed(few):
    drawn = [scenes.Canvases(count, seed=(0, 1))[3] for count in (4, 9)]
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert torch.equal(drawn[0][1]["boxes"], drawn[1][1]["boxes"])
    data, other = (scenes.load("canvas", seed=seed, train_images=5) for seed in (0, 1))
    for part in ("validation", "test"):
        assert all(
            torch.equal(a[0], b[0]) for a, b in zip(getattr(data, part).drawn, getattr(other, part).drawn, strict=True)
        )
    images = [
        image.numpy().tobytes()
        for split in (data.train, other.train, data.validation, data.test)
        for image, *_ in split.drawn
    ]
    assert len(set(images)) == len(images) == 5 + 5 + 4 + 6
    assert data.fingerprint != other.fingerprint
    assert data.fingerprint == scenes.load("canvas", seed=0, train_images=5).fingerprint
    pixels = np.stack([image.numpy() for image, *_ in data.train.drawn]) / 255
    np.testing.assert_allclose(data.mean, pixels.mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(data.std, pixels.std(axis=(0, 2, 3)))
    assert {int(label) for split in (data.train, data.test) for _, t in split for label in t["labels"]} <= {
        *range(1, 11)
    }


@pytest.mark.parametrize("given", [{"size": 31}, {"most": 0}])
def test_canvas_refuses(given):
    ((name, value),) = given.items()
    with pytest.raises(ValueError, match=rf"{name} must be an integer >= \d+, got {value}"):
        draw_canvas(0, **given)


def test_mirrored_boxes_stay_on_their_shapes(plain):
    examples = list(scenes.Canvases(12, seed=(4,)))
    torch.manual_seed(0)
    images, targets = detection.augment(examples)
    mirrored = [not torch.allclose(image, example[0] / 255) for image, example in zip(images, examples)]
    assert 2 <= sum(mirrored) <= 10
    for image, target, (_, given) in zip(images, targets, examples):
        assert target["labels"].tolist() == given["labels"].tolist()
        for box in target["boxes"].tolist():
            assert min(np.abs(np.subtract(box, found)).max() for found in blobs(image)) <= 1


def test_crowd_and_empty_boxes_are_not_trained_on():
    image, _ = scenes.Canvases(1, seed=(4,))[0]
    boxes = torch.tensor([[1.0, 2, 20, 30], [5, 5, 5, 9], [10, 10, 40, 40]])
    target = scenes._target(boxes, torch.tensor([3, 4, 5]), torch.tensor([0, 0, 1]), image.shape[-2:])
    _, (kept,) = detection.augment([(image, target)])
    assert kept["labels"].tolist() == [3]
    assert kept["boxes"].shape == (1, 4)


# Pascal VOC and folders in COCO's format


def picture(path, colour, size=(60, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin>"
    "<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


@pytest.fixture
def voc(tmp_path):
    """The layout of the real archives; difficult comes as 0, 1 or not at all."""
    for year, sets in (("2007", ("trainval", "test")), ("2012", ("trainval",))):
        root = tmp_path / "VOCdevkit" / f"VOC{year}"
        for folder in ("ImageSets/Main", "Annotations"):
            (root / folder).mkdir(parents=True)
        for k, part in enumerate(sets):
            name = f"{year}_00000{k}"
            (root / "ImageSets" / "Main" / f"{part}.txt").write_text(f"{name}\n")
            picture(root / "JPEGImages" / f"{name}.jpg", (200, 10, 10))
            objects = OBJECT.format("person", 1, 11, 6, 30, 40) + OBJECT.format("aeroplane", 0, 1, 1, 60, 40)
            objects += OBJECT.format("dog", 0, 3, 4, 20, 20).replace("<difficult>0</difficult>", "")
            (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
    return tmp_path


def test_voc(voc):
    data = scenes.load("voc", root=voc)
    assert (len(data.train), len(data.test), data.validation) == (2, 1, None)
    assert (len(data.class_names), data.class_names[0], data.class_names[19]) == (20, "aeroplane", "tvmonitor")
    image, target = data.test[0]
    assert image.shape == (3, 40, 60)
    assert image.dtype == torch.uint8
    assert [data.class_names[label - 1] for label in target["labels"]] == ["person", "aeroplane", "dog"]
    # Pixel 1 is the first and the last is in the box: the whole picture is from 0 to its width.
    assert target["boxes"].tolist() == [[10, 5, 30, 40], [0, 0, 60, 40], [2, 3, 20, 20]]
    assert target["iscrowd"].tolist() == [1, 0, 0]


@pytest.mark.parametrize("lacks", ["VOC2012/ImageSets/Main/trainval.txt", "VOC2007/ImageSets/Main/test.txt"])
def test_missing_voc_says_how_to_get_it(voc, lacks):
    (voc / "VOCdevkit" / lacks).unlink()
    for root in (voc, voc / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"voc is not in root .* it takes 2007 trainval, .* download=True"):
            scenes.load("voc", root=root)


@pytest.fixture
def coco(tmp_path):
    """Category ids with gaps, as COCO's, and a picture without objects."""
    root = tmp_path / "mine"
    (root / "annotations").mkdir(parents=True)
    categories = [{"id": 7, "name": "cat"}, {"id": 3, "name": "ant"}]
    for part in ("train2017", "val2017"):
        images = [{"id": k, "file_name": f"{k}.png", "width": 60, "height": 40} for k in (1, 2)]
        boxes = [([2, 3, 10, 20], 7, 0), ([0, 0, 60, 40], 3, 1)]
        annotations = [
            {"id": k, "image_id": 1, "bbox": box, "category_id": category, "iscrowd": crowd, "area": 1}
            for k, (box, category, crowd) in enumerate(boxes, start=1)
        ]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))
        for k in (1, 2):
            picture(root / part / f"{k}.png", (10, 200, 10))
    return root


def test_coco(coco, capsys):
    data = scenes.load(str(coco))
    assert data.name == "mine"
    assert data.class_names == ("ant", "cat")
    image, target = data.train[0]
    assert image.shape == (3, 40, 60)
    assert target["boxes"].tolist() == [[2, 3, 12, 23], [0, 0, 60, 40]]
    assert target["labels"].tolist() == [2, 1]
    assert target["iscrowd"].tolist() == [0, 1]
    assert data.test[1][1]["boxes"].shape == (0, 4)
    assert capsys.readouterr().out == ""


def test_folder_that_is_not_cocos(coco):
    path = coco / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    content["categories"][0]["name"] = "dog"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"mine: train and val differ in their categories: cat, dog"):
        scenes.load(str(coco))
    path.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"mine is no folder in COCO's format: it takes one annotations/instances_val"
    ):
        scenes.load(str(coco))
    with pytest.raises(ValueError, match=r"dataset is 'canvass'; .* folder in COCO's format; did you mean canvas\?"):
        scenes.load("canvass")


def edit_coco(coco, edit):
    """Change what both files of annotations say."""
    for path in (coco / "annotations").iterdir():
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))


def test_coco_is_read_as_by_torchvision(coco):
    edit_coco(coco, lambda content: content["annotations"][0].update(bbox=[2.3, 3.1, 10.7, 20.9]))
    source = CocoDetection(coco / "val2017", coco / "annotations" / "instances_val2017.json")
    theirs = wrap_dataset_for_transforms_v2(source, target_keys={"boxes", "labels", "iscrowd"})
    ours = scenes.load(str(coco)).test
    ((picture, target), _), ((image, found), _) = theirs, ours
    assert np.array_equal(np.asarray(picture), image.permute(1, 2, 0))
    assert torch.equal(target["boxes"].as_subclass(torch.Tensor), found["boxes"].as_subclass(torch.Tensor))
    assert target["labels"].tolist() == [{1: 3, 2: 7}[label] for label in found["labels"].tolist()]
    assert target["iscrowd"] == found["iscrowd"].tolist()


def test_voc_is_read_as_by_torchvision(voc):
    theirs = wrap_dataset_for_transforms_v2(VOCDetection(voc, "2007", "test"), target_keys={"boxes", "labels"})
    ((picture, target),), ((image, found),) = theirs, scenes.load("voc", root=voc).test
    assert np.array_equal(np.asarray(picture), image.permute(1, 2, 0))
    assert torch.equal(target["boxes"] - torch.tensor([1, 1, 0, 0]), found["boxes"].as_subclass(torch.Tensor))
    assert torch.equal(target["labels"], found["labels"])


@pytest.mark.parametrize("name", ["iscrowd", "area", "id"])
def test_annotations_need_no_more_than_a_box_and_a_category(coco, name):
    edit_coco(coco, lambda content: [annotation.pop(name) for annotation in content["annotations"]])
    _, target = scenes.load(str(coco)).train[0]
    assert target["boxes"].tolist() == [[2, 3, 12, 23], [0, 0, 60, 40]]
    assert target["labels"].tolist() == [2, 1]
    assert target["iscrowd"].tolist() == ([0, 0] if name == "iscrowd" else [0, 1])


@pytest.mark.faults
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["annotations"][0].update(category_id=99), "must list every category, got category_id 99"),
        (lambda c: c["annotations"][0].pop("category_id"), "must list every category, got category_id None"),
        (lambda c: c["annotations"][0].pop("bbox"), r"bbox must be \[x, y, width, height\], got None"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), r"bbox must be \[x, y, .*, got \[1, 2, 3\]"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3, -4]), r"bbox must have a width .*, got \[1, 2, 3, -4\]"),
        (
            lambda c: c["annotations"][0].pop("image_id"),
            "must have COCO's images .*, and cannot be read: no 'image_id'",
        ),
        (lambda c: c.pop("categories"), "must have COCO's images .*, and cannot be read: no 'categories'"),
        (lambda c: c["categories"][0].pop("name"), "and cannot be read: no 'name'"),
        (lambda c: c.update(images=[]), "must list one picture or more, got none"),
        (lambda c: c.update(categories=[]), "must list one category or more, got none"),
        (lambda c: c["annotations"][0].update(iscrowd="yes"), "iscrowd must be 0 or 1, got 'yes'"),
        (lambda c: c["annotations"][0].update(iscrowd=[1]), r"iscrowd must be 0 or 1, got \[1\]"),
        (lambda c: c["annotations"][0].update(iscrowd=2), "iscrowd must be 0 or 1, got 2"),
        (lambda c: c["annotations"][0].update(category_id=[3]), r"must list every category, got category_id \[3\]"),
        (lambda c: c["annotations"][0].update(image_id=[1]), "and cannot be read: unhashable type: 'list'"),
        (lambda c: c["annotations"].append(None), "and cannot be read: .*NoneType"),
        (lambda c: c["images"].append(c["images"][0]), "and cannot be read: two of its images have the id 1"),
        (
            lambda c: c["categories"].append(c["categories"][1]),
            "and cannot be read: two of its categories have the id 3",
        ),
        (
            lambda c: c["annotations"].append(c["annotations"][1]),
            "and cannot be read: two of its annotations have the id 2",
        ),
    ],
)
def test_damaged_annotations_of_coco_are_named_in_one_line(coco, edit, message):
    edit_coco(coco, edit)
    with pytest.raises(ValueError, match=rf"instances_train2017\.json.*{message}") as caught:
        scenes.load(str(coco))
    assert "\n" not in str(caught.value)


@pytest.mark.faults
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_annotations_that_are_no_json_object_are_named(coco, content):
    (coco / "annotations" / "instances_train2017.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"instances_train2017\.json must have COCO's images"):
        scenes.load(str(coco))


@pytest.mark.faults
@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_picture_ends_the_training_in_one_line_whoever_reads_it(coco, tmp_path, workers):
    file = coco / "train2017" / "2.png"
    file.write_bytes(file.read_bytes()[:60])
    config, record = Config(dataset=str(coco), batch_size=2, epochs=1), tmp_path / "record.json"
    with pytest.raises(ValueError, match=r"^\S*train2017/2\.png cannot be read as an image: ") as caught:
        detection.run(config, record, workers=workers)
    assert "\n" not in str(caught.value)
    assert not record.exists()


@pytest.mark.faults
def test_pictures_that_are_not_there_or_damaged_are_named(coco):
    file = coco / "val2017" / "2.png"
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"val2017/2\.png cannot be read as an image: ") as caught:
        _ = scenes.load(str(coco)).test[1]
    assert "\n" not in str(caught.value)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"must name pictures that are there, got '.*val2017/2\.png'"):
        scenes.load(str(coco))


@pytest.mark.faults
@pytest.mark.parametrize("box", [[60, 0, 9, 9], [0, 40, 9, 9], [-9, 0, 9, 9], [0, -9, 5, 5], [1000, 1000, 5, 5]])
def test_boxes_wholly_outside_their_picture_are_named(coco, box):
    edit_coco(coco, lambda content: content["annotations"][1].update(bbox=box))
    x, y, width, height = box
    got = rf"\[{x}\.0, {y}\.0, {x + width}\.0, {y + height}\.0\]"
    with pytest.raises(
        ValueError, match=rf"train2017/1\.png must have its objects within its 60 x 40 pixels, got {got}"
    ):
        _ = scenes.load(str(coco)).train[0]


@pytest.mark.parametrize("box", [[50, 30, 20, 20], [-5, -5, 10, 10], [0, 0, 0, 0]])
def test_boxes_that_reach_out_of_their_picture_are_taken(coco, box):
    edit_coco(coco, lambda content: content["annotations"][1].update(bbox=box))
    _, target = scenes.load(str(coco)).train[0]
    assert target["boxes"][1].tolist() == [box[0], box[1], box[0] + box[2], box[1] + box[3]]


@pytest.mark.faults
def test_pictures_of_more_than_8_bits_are_refused(coco):
    Image.fromarray(np.full((40, 60), 0x1234, np.uint16)).save(coco / "train2017" / "1.png")
    with pytest.raises(ValueError, match=r"train2017/1\.png cannot be read as an image: .* more than 8 bits a channel"):
        _ = scenes.load(str(coco)).train[0]


@pytest.mark.faults
@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_are_of_the_pixels_as_they_are_stored(coco, orientation):
    """A picture that EXIF would turn stays as it lies, as by torchvision and pycocotools."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(coco / "train2017" / "1.png", exif=exif)
    image, target = scenes.load(str(coco)).train[0]
    assert np.array_equal(image.permute(1, 2, 0), pixels)
    assert target["boxes"].tolist() == [[2, 3, 12, 23], [0, 0, 60, 40]]


def test_a_picture_of_voc_may_have_no_object(voc):
    path = voc / "VOCdevkit" / "VOC2007" / "Annotations" / "2007_000001.xml"
    for content in ("<annotation/>", "<annotation><folder>VOC2007</folder></annotation>"):
        path.write_text(content)
        _, target = scenes.load("voc", root=voc).test[0]
        assert target["boxes"].shape == (0, 4)
        assert target["labels"].tolist() == target["iscrowd"].tolist() == []


@pytest.mark.faults
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (OBJECT.format("unicorn", 0, 1, 1, 9, 9), "must have objects of VOC's 20 classes, got 'unicorn'"),
        (
            OBJECT.format("dog", 0, 1, 1, 9, 9).replace("<name>dog</name>", ""),
            "must have objects of VOC's 20 classes, got ''",
        ),
        (OBJECT.format("dog", 0, 1, 1, 9, "wide"), "must have a bndbox .*, and cannot be read: could not convert"),
        ("<object><name>dog</name></object>", "must have a bndbox .* for each object, and cannot be read"),
        ("<object>", "must have a bndbox .* for each object, and cannot be read: mismatched tag"),
    ],
)
def test_damaged_annotations_of_voc_are_named_before_training(voc, content, message):
    path = voc / "VOCdevkit" / "VOC2012" / "Annotations" / "2012_000000.xml"
    path.write_text(f"<annotation>{content}</annotation>")
    with pytest.raises(ValueError, match=rf"2012_000000\.xml {message}") as caught:
        scenes.load("voc", root=voc)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("detector", ["ssd", "fasterrcnn"])
def test_pictures_of_any_size_and_without_objects_train(coco, detector):
    """Also where a mini-batch has no object at all that counts."""
    data = scenes.load(str(coco))
    config = Config(detector=detector, epochs=2, batch_size=2)
    built, _ = detection.build(config, data)
    history = detection.train(built, config, data)
    assert np.isfinite([row["loss"] for row in history]).all()
    found, there = detection.predict(built, data.test)
    assert len(found) == len(there) == 2


# Backbones


def finished(folder, model="preactresnet-small", channels=3, size=32, classes=7, dataset="shapes"):
    """The folder of a finished run, as much of it as a detector reads; batch normalisation has statistics."""
    torch.manual_seed(1)
    encoder, width = models.MODELS[model](channels, size)
    classifier = models.Classifier(encoder, width, classes, (0.4,) * channels, (0.2,) * channels)
    classifier(torch.rand(4, channels, size, size))
    folder.mkdir()
    made = {"dataset": dataset, "model": model, "method": "erm", "options": {}, "seed": 0, "epochs": 1, "digest": "x"}
    (folder / "config.json").write_text(json.dumps(made))
    (folder / "metrics.json").write_text("{}")
    runs.write_weights(folder / "checkpoint.pt", classifier.state_dict())
    return classifier.eval()


@pytest.mark.parametrize("detector", ["ssd", "fasterrcnn"])
def test_detectors_encoder_gives_the_classifiers_features(tmp_path, few, detector):
    """Of the same weights, to the last bit, whatever the number of its classes was."""
    classifier = finished(tmp_path / "run")
    data = scenes.load("canvas", train_images=2)
    config = Config(detector=detector, start=str(tmp_path / "run"), precision="float64")
    built, pretrain_config = detection.build(config, data)
    built, classifier = built.eval(), classifier.double()
    images = torch.rand(2, 3, 64, 64, dtype=torch.double)
    maps = built.backbone.body(built.transform(list(images))[0].tensors)
    with torch.no_grad():
        torch.testing.assert_close(maps["1"], classifier.features(images), rtol=1e-12, atol=1e-12)
        before = classifier.encoder[:4](classifier.normalise(images))
    torch.testing.assert_close(maps["0"], before, rtol=1e-12, atol=1e-12)
    assert pretrain_config["method"] == "erm"


@pytest.mark.slow
@pytest.mark.parametrize("model", [name for name in detection.MODELS if name != "preactresnet-small"])
@pytest.mark.parametrize("detector", ["ssd", "fasterrcnn"])
def test_every_convolutional_model_carries_a_detector(few, model, detector):
    data = scenes.load("canvas", train_images=2)
    built, _ = detection.build(Config(model=model, detector=detector), data)
    losses = built(*detection.augment([data.train[0], data.train[1]]))
    sum(losses.values()).backward()
    first = next(built.backbone.body.parameters())
    assert first.grad.abs().max() > 0


def test_start_from_a_ledger_and_not_from_one_without_weights(tmp_path, few):
    """Any ledger's record reads alike: one of the recorded ones, with weights beside it or not."""
    classifier = finished(tmp_path / "run")
    place = "shapes/preactresnet-small/erm/seed0"
    recorded = project_root() / "book" / "results" / "pretraining" / place
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.with_suffix(".json").write_bytes(recorded.with_suffix(".json").read_bytes())
    data = scenes.load("canvas", train_images=2)
    config = Config(start=str(path.with_suffix(".json")))
    with pytest.raises(FileNotFoundError, match=r"start must be .*, got '.*seed0.json': .*seed0.pt does not exist"):
        detection.build(config, data)
    (tmp_path / "run" / "checkpoint.pt").rename(path.with_suffix(".pt"))
    built, pretrain_config = detection.build(config, data)
    assert pretrain_config["digest"] == ledger.load_record(path.with_suffix(".json")).config["digest"]
    torch.testing.assert_close(built.backbone.body["0"].weight, classifier.encoder[0].weight, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"model": "wrn16-8"}, r"start must be a run of model 'preactresnet-small', got .*run of 'wrn16-8'"),
        (
            {"channels": 1, "dataset": "digits"},
            r"start must be a run on images of 3 channels like those of canvas, got .*run of digits with 1",
        ),
        ({"size": 8}, r"start must be a run on images of backbone_size 32, got .*run on images of another size"),
    ],
)
def test_other_checkpoints_are_refused_by_name(tmp_path, few, made, message):
    finished(tmp_path / "run", **made)
    with pytest.raises(ValueError, match=message):
        detection.build(Config(start=str(tmp_path / "run")), scenes.load("canvas", train_images=2))


def test_unfinished_runs_are_no_start(tmp_path, few):
    finished(tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    data = scenes.load("canvas", train_images=2)
    for name in ("run", "nowhere"):
        with pytest.raises(
            FileNotFoundError, match=rf"start must be .*, got '.*{name}': .*metrics.json does not exist"
        ):
            detection.build(Config(start=str(tmp_path / name)), data)


# mAP


def boxes(*rows):
    return {"boxes": torch.tensor(rows, dtype=torch.float), "labels": torch.ones(len(rows), dtype=torch.long)}


def test_mean_average_precision_of_perfect_and_of_shifted_boxes():
    there = [target for _, target in scenes.Canvases(20, seed=(8,))]
    maps = []
    for shift in (0, 1, 3, 40):
        found = [
            {"boxes": t["boxes"] + shift, "labels": t["labels"], "scores": torch.ones(len(t["labels"]))} for t in there
        ]
        maps.append(mean_average_precision(found, there, 10)["map"])
    assert maps[0] == pytest.approx(100)
    assert maps[0] > maps[1] + 5 > maps[2] + 10
    assert maps[3] < 1


def test_average_precision_by_hand():
    """Two objects; the surest box finds one, the next none: precision is 1 up to recall 1/2, at 51 of 101 recalls."""
    there = [boxes([0, 0, 10, 10], [20, 20, 30, 30])]
    found = [boxes([0, 0, 10, 8.2], [50, 50, 60, 60]) | {"scores": torch.tensor([0.9, 0.8])}]
    numbers = mean_average_precision(found, there, 2)
    assert numbers["map_50"] == numbers["map_75"] == pytest.approx(100 * 51 / 101)
    assert numbers["map"] == pytest.approx(100 * 51 / 101 * 7 / 10)  # IoU 0.82 passes 7 of the 10 thresholds
    assert numbers["class_map"] == [pytest.approx(numbers["map"]), None]


def test_average_precision_without_objects_is_none():
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    numbers = mean_average_precision([empty | {"scores": torch.zeros(0)}], [empty], 2)
    assert numbers == {"map": None, "map_50": None, "map_75": None, "class_map": [None, None]}


def test_average_precision_of_crowds_alone_and_of_found_boxes_without_objects_is_none():
    found = [boxes([0, 0, 10, 10]) | {"scores": torch.ones(1)}]
    crowd = [boxes([0, 0, 10, 10]) | {"iscrowd": torch.ones(1, dtype=torch.long)}]
    for there in (crowd, [boxes() | {"boxes": torch.zeros(0, 4)}]):
        numbers = mean_average_precision(found, there, 2)
        assert numbers == {"map": None, "map_50": None, "map_75": None, "class_map": [None, None]}
    with pytest.raises(ValueError, match="targets must have one picture or more, got none"):
        mean_average_precision([], [], 2)


def test_crowd_counts_neither_as_found_nor_as_missed():
    there = [boxes([0, 0, 10, 10], [20, 20, 30, 30]) | {"iscrowd": torch.tensor([0, 1])}]
    for rows in ([[0, 0, 10, 10]], [[20, 20, 30, 30], [0, 0, 10, 10]]):
        found = [boxes(*rows) | {"scores": torch.linspace(0.9, 0.8, len(rows))}]
        assert mean_average_precision(found, there, 1)["map"] == pytest.approx(100)


# Runs


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["ssd", "fasterrcnn"])
def test_a_handful_of_canvases_is_learned_by_heart(few, detector):
    """Ten seconds each on one quiet core."""
    data = scenes.load("canvas", train_images=4)
    config = Config(detector=detector, epochs=120, batch_size=4, lr=0.005, proposals=100)
    built, _ = detection.build(config, data)
    handful = data.train
    before = mean_average_precision(*detection.predict(built, handful), 10)["map"]
    detection.train(built.train(), config, data)
    after = mean_average_precision(*detection.predict(built, handful), 10)
    assert before < 5
    assert after["map_50"] > 95
    assert after["map"] > 50


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["ssd", "fasterrcnn"])
def test_same_seed_same_record_whatever_the_global_generator(tmp_path, few, detector):
    made = []
    for global_seed, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(global_seed)
        state = torch.get_rng_state()
        made.append(detection.run(Config(detector=detector, seed=seed, **TINY), tmp_path / f"{len(made)}.json"))
        assert seed or torch.equal(torch.get_rng_state(), state)
    for part in ("config", "metrics", "predictions"):
        assert made[0][part] == made[1][part]
    losses = [[row["loss"] for row in content["history"]] for content in made]
    assert losses[0] == losses[1] != losses[2]
    assert ledger.read_verified(tmp_path / "0.json") == made[0]
    assert made[0]["config"].items() >= {"dataset": "canvas", "start": None, "detector": detector, "epochs": 1}.items()
    assert len(made[0]["metrics"]["class_map"]) == 10
    assert not list(tmp_path.glob("*.partial"))


def test_no_generator_of_a_gpu_is_seeded(few, monkeypatch):
    """Neither in building nor in training on the CPU; and a GPU's fork takes that GPU alone."""
    touched = []
    for name in ("manual_seed", "manual_seed_all", "get_rng_state", "set_rng_state"):
        monkeypatch.setattr(torch.cuda, name, lambda *given, name=name: touched.append((name, *given)))
    data = scenes.load("canvas", train_images=4)
    config = Config(epochs=1, batch_size=4)
    built, _ = detection.build(config, data)
    detection.train(built, config, data)
    assert touched == []
    generators = [torch.Generator() for _ in range(3)]
    monkeypatch.setattr(torch.cuda, "default_generators", generators)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: touched.append(("get", device)))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: touched.append(("set", device)))
    with seeded(7, "cuda:1"):
        assert [generator.initial_seed() == 7 for generator in generators] == [False, True, False]
        assert torch.initial_seed() == 7
    assert len(touched) == 2


class Waits(TorchDispatchMode):
    """Counts how often the host reads a number from a tensor."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket == torch.ops.aten._local_scalar_dense
        return function(*args, **(kwargs or {}))


class Unread(torch.Tensor):
    """A loss that refuses to be read by itself."""

    def item(self):
        raise AssertionError("a step's loss is read")

    __float__ = __bool__ = item


def test_no_step_waits_for_its_loss(few, monkeypatch):
    """torchvision's detectors read numbers in their forward, AdamW its step on the CPU; here is the rest of a step."""
    data, config = scenes.load("canvas", train_images=8), Config(epochs=2, batch_size=2)
    layer, waits, step = torch.nn.Linear(1, 1), Waits(), training._step
    monkeypatch.setattr(layer, "forward", lambda images, targets: {"loss": layer.weight.square().sum()})
    monkeypatch.setattr(torch.optim, "AdamW", torch.optim.SGD)

    def watched(*arguments):
        with waits:
            return step(*arguments).as_subclass(Unread)

    monkeypatch.setattr(training, "_step", watched)
    assert len(detection.train(layer, config, data)) == 2
    assert waits.count == 0


def test_record_names_its_start_and_is_not_edited_or_written_over(tmp_path, few):
    finished(tmp_path / "run")
    path = tmp_path / "record.json"
    content = detection.run(Config(start=str(tmp_path / "run"), **TINY), path)
    assert content["config"]["start"].items() >= {"dataset": "shapes", "method": "erm", "seed": 0}.items()
    assert str(tmp_path) not in path.read_text()
    with pytest.raises(ValueError, match=r"record must be a .json file that does not exist yet, got '.*record.json'"):
        detection.run(Config(), path)
    path.write_text(path.read_text().replace('"map_50": ', '"map_50": 9'))
    with pytest.raises(ValueError, match=r"record.json does not match its checksum: it was edited by hand"):
        ledger.read_verified(path)


@pytest.mark.parametrize("detector", ["ssd", "fasterrcnn"])
def test_loss_that_is_not_finite_stops_the_run(tmp_path, few, detector):
    config = Config(detector=detector, lr=1e30, seed=3, **TINY | {"epochs": 3})
    with pytest.raises(FloatingPointError, match=rf"the loss is not finite at step \d+ of {detector}, seed 3; a lower"):
        detection.run(config, tmp_path / "record.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train-images", "4"], "batch_size must be at most the 4 images of canvas, got 8"),
        (["--dataset", "folder/nowhere"], "nowhere is no folder in COCO's format"),
        (["--dataset", "voc", "--root", "nowhere"], "voc is not in root 'nowhere'; it takes 2007 trainval"),
    ],
)
def test_command_line_refuses_and_writes_nothing(tmp_path, few, arguments, message):
    path = tmp_path / "folder" / "record.json"
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        mmbook.detection.__main__.main(["--record", str(path), *arguments])
    assert not path.parent.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lr", "0.1"], "the following arguments are required: --record"),
        (["--record", "x.json", "--detecter", "ssd"], "--detecter ssd; did you mean --detector?"),
        (["--record", "x.json", "--workers", "many"], "argument --workers: must be int, got 'many'"),
        (["--record", "x.json", "--device", "gpu"], "device must be 'cpu', 'cuda' or 'cuda:<index>', got 'gpu'"),
        (["--record", "x.json", "--threads", "0"], "threads must be an integer >= 1, got 0"),
        (["--record", "x.json", "--threads", "100000"], "threads must be a number from 1 to"),
        (["--record", "x.json", "--workers", "-1"], "workers must be an integer >= 0, got -1"),
        (["--record", "x.json", "--model", "vit-tiny"], "model must be 'preactresnet-small',"),
        (["--record", "x.json", "--detector", "yolo"], "detector must be 'ssd' or 'fasterrcnn', got 'yolo'"),
        (["--record", "x.json", "--epochs", "0"], "epochs must be an integer >= 1, got 0"),
        (["--record", "x.json", "--batch-size", "1"], "batch_size must be an integer >= 2, got 1"),
        (["--record", "x.json", "--lr", "-1"], "lr must be a finite number >= 0, got -1"),
    ],
)
def test_command_line_names_what_is_wrong_in_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        mmbook.detection.__main__.main(arguments)
    printed = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in printed
    assert printed.count("\n") == 1


def test_command_line_runs_one_cell(tmp_path, few, capsys):
    path = tmp_path / "folder" / "record.json"
    arguments = ["--train-images", "4", "--batch-size", "2", "--epochs", "1", "--detector", "ssd", "--threads", "1"]
    with mock.patch.dict(os.environ):
        for name in COMMON_INSTRUCTIONS:
            os.environ.pop(name, None)
        mmbook.detection.__main__.main(["--record", str(path), *arguments])
    record = ledger.read_verified(path)
    assert f"test mAP {record['metrics']['map']:.2f} %" in capsys.readouterr().out
    if platform.machine().lower() in ("x86_64", "amd64"):
        assert record["environment"]["instructions"] == COMMON_INSTRUCTIONS


def test_ledger_takes_the_records_of_the_grid_and_names_those_it_leaves_out(tmp_path, few, monkeypatch):
    paths = [tmp_path / f"seed{seed}.json" for seed in range(5)]
    configs = [Config(seed=seed, **TINY) for seed in range(5)]
    cells = [detection.Cell(path.relative_to(tmp_path), config) for path, config in zip(paths, configs)]
    monkeypatch.setattr("mmbook.detection.records.cells", lambda: cells[:4])
    for path, config in zip(paths, (configs[0], configs[1], Config(seed=2, lr=0.1, **TINY))):
        detection.run(config, path)
    paths[1].write_text(paths[1].read_text().replace("0.002", "0.003"))
    paths[4].write_bytes(paths[0].read_bytes())
    records, missing, rejected = detection.grid_records(tmp_path)
    assert [record.path for record in records] == [cells[0].path]
    assert records[0].metrics == ledger.read_verified(paths[0])["metrics"]
    assert missing == cells[1:4]
    assert len(rejected) == 3
    assert "seed1.json does not match its checksum" in rejected[0]
    assert rejected[1:] == [
        "seed2.json is left out: lr is 0.1, the grid has 0.002",
        "seed4.json is left out: the grid has no such cell",
    ]


def test_table_has_a_row_for_each_record():
    path = detection.cells()[0].path.with_name("seed4.json")
    config = {"detector": "ssd", "seed": 4, "start": {"method": "erm"}}
    record = detection.DetectionRecord(path, config, {"map": 3.0, "class_map": []}, [], {}, [])
    assert detection.table([record]) == [{"detector": "ssd", "start": "scratch", "seed": 4, "map": 3.0}]


def test_every_start_of_the_grid_is_a_cell_of_a_grid():
    cells = detection.cells()
    starts = {f"runs/pretraining/{cell.path}" for cell in grids.cells("pretraining")}
    assert {cell.config.start for cell in cells} - {""} == starts
    assert len(cells) == 2 * 6 * 3
    assert cells[0].path.parts == ("canvas", "preactresnet-small", "ssd", "scratch", "seed0.json")
