"""Data sets of pictures with objects in boxes: canvases drawn here, Pascal VOC, folders in COCO's format."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import VOCDetection
from torchvision.transforms.v2.functional import to_image
from torchvision.tv_tensors import BoundingBoxes, Image

from mmlib._checks import as_number, check_int, nearest
from mmlib._typing import Float, Int, UInt8
from mmlib.experiments.data import shapes
from mmlib.experiments.data.files import load_stored_rgb
from mmlib.experiments.data.sources import FIXED_SEED
from mmlib.experiments.data.streaming import IMAGENET_MOMENTS

TAKES = "canvas, voc or a folder in COCO's format"
VALIDATION, TEST = 100, 300  # canvases, the same for every seed
VOC = {"train": (("2007", "trainval"), ("2012", "trainval")), "test": (("2007", "test"),)}
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
VOC_SIDES = ("xmin", "ymin", "xmax", "ymax")

Example = tuple[Image, dict[str, Tensor]]
Objects = tuple[Float[Tensor, "_ 4"], Int[Tensor, " _"], Int[Tensor, " _"]]  # boxes, labels, marks of crowds


@dataclass(frozen=True)
class Scenes:
    """Splits of pictures with boxes.

    An example is an image of bytes, (3, h, w), and its `boxes`, (k, 4) as x0, y0, x1, y1 in pixels with x1 and y1
    exclusive, `labels`, (k,) from 1 since 0 is the background of torchvision's detectors, and `iscrowd`, (k,): objects
    that are neither trained on nor counted, whether they are found or not.

    Args:
        validation: None where there is none.
        class_names: of labels 1, 2, ...
        mean, std: of the training pictures' pixels in [0, 1], per channel; canvases have theirs measured, others those
            published for ImageNet.
        fingerprint: 16 hexadecimal digits of what is in the splits.
    """

    name: str
    train: Dataset
    validation: Dataset | None
    test: Dataset
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str


class Canvases(Dataset):
    """Canvases of `draw_canvas`, the i-th drawn from the seed ``(*seed, i)``.

    >>> image, target = Canvases(10, seed=(0,))[3]
    >>> image.shape, target["boxes"].shape[1]
    (torch.Size([3, 64, 64]), 4)
    """

    def __init__(self, count: int, seed: tuple[int, ...], size: int = 64) -> None:
        self.drawn = [draw_canvas((*seed, i), size=size) for i in range(count)]

    def __len__(self) -> int:
        return len(self.drawn)

    def __getitem__(self, index: int) -> Example:
        image, labels, boxes = self.drawn[index]
        return Image(image), _target(boxes, labels + 1, torch.zeros_like(labels), image.shape[-2:])


class Annotated(Dataset):
    """Pictures in files, which are read as they are needed, and their objects.

    Boxes are of the pixels as they are stored, so no picture is turned as its EXIF orientation says.

    Args:
        files: of the pictures.
        objects: of each picture its boxes, labels and marks of crowds, as those of an example of `Scenes`.

    Raises:
        ValueError: of an example, a picture that cannot be read or has an object wholly outside.
    """

    def __init__(self, files: Sequence[Path], objects: Sequence[Objects]) -> None:
        self.files, self.objects = files, objects

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        file, (boxes, labels, crowd) = self.files[index], self.objects[index]
        image = to_image(load_stored_rgb(file))
        size = torch.tensor([image.shape[2], image.shape[1]])
        low, high = boxes[:, :2], boxes[:, 2:]
        outside = ((low >= size) | (low < 0) & (high <= 0)).any(1)
        if outside.any():
            wanted = f"must have its objects within its {size[0]} x {size[1]} pixels"
            raise ValueError(f"{file} {wanted}, got {boxes[outside][0].tolist()}")
        return image, _target(boxes, labels, crowd, image.shape[-2:])


def draw_canvas(
    seed: int | Sequence[int], *, size: int = 64, most: int = 4
) -> tuple[UInt8[Tensor, "3 size size"], Int[Tensor, " k"], Float[Tensor, "k 4"]]:
    """Draw one to `most` shapes on one canvas, none over another, over a texture with strokes in it.

    Shapes are as large and as coloured as those of `draw_shapes`; their circles keep apart, and one that finds no
    room is left out.

    Args:
        seed: the only source of randomness; a sequence of integers is one too.
        size: pixels on a side, at least 32.
        most: shapes; how many is drawn from 1 to `most`.

    Returns:
        The image, labels (indices into `SHAPES`), and boxes as of `draw_shapes`, k of each.

    >>> image, labels, boxes = draw_canvas(0)
    """
    check_int(shapes.SIZE, size=size)
    check_int(1, most=most)
    rng = np.random.default_rng(seed)
    image = shapes.texture(rng.uniform(*shapes.DARK, (1, 3)), shapes.GROUND, rng, size)
    for _ in range(shapes.STROKES * size**2 // shapes.SIZE**2):
        image = shapes.blend(image, shapes.stroke(1, rng, size), rng.uniform(*shapes.STROKE, (1, 3))[:, :, None, None])
    circles = _apart(1 + int(rng.integers(most)), size, rng)
    labels = rng.integers(len(shapes.SHAPES), size=len(circles))
    distances, covered = list(shapes.SHAPES.values()), []
    for label, (x, y, radius) in zip(labels, circles):
        planes = shapes.around(np.array([x, y]), rng.uniform(0, 2 * np.pi, (1, 1, 1)), size)
        covered.append((0.5 - radius * distances[label](*(plane / radius for plane in planes))).clip(0, 1))
        fill = shapes.texture(rng.uniform(*shapes.LIGHT, (1, 3)), shapes.FILL, rng, size)
        image = shapes.blend(image, covered[-1], fill)
    image += rng.uniform(-shapes.NOISE, shapes.NOISE, image.shape)
    pixels = (image[0].clip(0, 1) * 255).round().astype(np.uint8)
    boxes = shapes.tightest_boxes(np.concatenate(covered) > 0)
    return torch.from_numpy(pixels), torch.from_numpy(labels), torch.from_numpy(boxes)


def _apart(count: int, size: int, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Circles (x, y, radius) within the canvas that keep two pixels apart: `count`, or as many as found room."""
    circles: list[tuple[float, float, float]] = []
    for _ in range(20 * count):  # the first always fits
        radius = rng.uniform(*shapes.RADIUS)
        x, y = rng.uniform(radius + 0.5, size - radius - 0.5, 2)
        if len(circles) < count and all(np.hypot(x - u, y - v) >= radius + r + 2 for u, v, r in circles):
            circles.append((x, y, radius))
    return circles


def load(name: str, *, root: str | Path = "data", seed: int = 0, train_images: int = 400, size: int = 64) -> Scenes:
    """A data set by its name, or from a path.

    ==============  ===============================================================================================
    canvas          1 to 4 of the ten shapes of `shapes.SHAPES` on textures with strokes; 100 to validate and 300 to
                    test, the same for every seed
    voc             Pascal VOC through torchvision, in `root/VOCdevkit`: trainval of 2007 and 2012 to train, test of
                    2007 to test; objects marked difficult are crowd
    path/to/folder  COCO's layout: `annotations/instances_train*.json` and `instances_val*.json`, each with a folder
                    of pictures of its name, such as `train2017`; val is the test split
    ==============  ===============================================================================================

    Args:
        root: where VOC lies.
        seed, train_images, size: of canvases to train on; pixels on a side.

    Raises:
        ValueError: an unknown name, or train and val that differ in their categories.
        FileNotFoundError: a data set that is not there, with how to get it.

    Source: Everingham et al. (IJCV 2010); Lin et al. (ECCV 2014).

    >>> len(load("canvas", train_images=10).train)
    10
    """
    if name == "canvas":
        return _canvas(seed, train_images, size)
    if name == "voc":
        return _voc(Path(root))
    if len(Path(name).parts) > 1 or Path(name).is_dir():
        return _coco(Path(name).expanduser())
    raise ValueError(f"dataset is {name!r}; it takes {TAKES}{nearest(name, ('canvas', 'voc'))}")


def _target(boxes: Tensor, labels: Tensor, crowd: Tensor, canvas_size: torch.Size) -> dict[str, Tensor]:
    boxes = BoundingBoxes(boxes, format="XYXY", canvas_size=tuple(canvas_size))
    return {"boxes": boxes, "labels": labels, "iscrowd": crowd}


def _canvas(seed: int, train_images: int, size: int) -> Scenes:
    seeds = {"train": (0, seed), "validation": (1, FIXED_SEED), "test": (2, FIXED_SEED)}
    counts = {"train": train_images, "validation": VALIDATION, "test": TEST}
    splits = {part: Canvases(counts[part], seeds[part], size) for part in seeds}
    pixels = torch.stack([image for image, *_ in splits["train"].drawn]).double() / 255
    mean, std = (tuple(values.tolist()) for values in (pixels.mean((0, 2, 3)), pixels.std((0, 2, 3), correction=0)))
    parts = [tensor.numpy() for split in splits.values() for drawn in split.drawn for tensor in drawn]
    return Scenes("canvas", *splits.values(), tuple(shapes.SHAPES), mean, std, _fingerprint(parts))


def _voc(root: Path) -> Scenes:
    try:
        held = {part: [VOCDetection(root, *of) for of in sets] for part, sets in VOC.items()}
    except (RuntimeError, OSError) as error:  # torchvision names neither the data set nor the folder
        how = "torchvision.datasets.VOCDetection(root, year, image_set, download=True) fetches each"
        takes = "2007 trainval, 2007 test and 2012 trainval"
        raise FileNotFoundError(f"voc is not in root {str(root)!r}; it takes {takes}: {how} ({error})") from error
    files = {part: [Path(file) for source in sets for file in source.images] for part, sets in held.items()}
    train, test = (
        Annotated(files[part], [_voc_objects(Path(file)) for source in sets for file in source.annotations])
        for part, sets in held.items()
    )
    names = [file.name.encode() for part in files.values() for file in part]
    return Scenes("voc", train, None, test, VOC_CLASSES, *IMAGENET_MOMENTS, _fingerprint(names))


def _voc_objects(path: Path) -> Objects:
    """The objects in one file of VOC's annotations; there may be none.

    Raises:
        ValueError: the file is damaged, or has an object of another class or without a box.
    """
    try:
        items = ElementTree.parse(path).getroot().findall("object")
        names = [item.findtext("name", "").strip() for item in items]
        boxes = [[float(item.findtext(f"bndbox/{side}", "")) for side in VOC_SIDES] for item in items]
        difficult = [int(item.findtext("difficult") or 0) for item in items]
    except (ElementTree.ParseError, ValueError) as error:
        takes = f"a bndbox ({', '.join(VOC_SIDES)}) for each object"
        raise ValueError(f"{path} must have {takes}, and cannot be read: {error}") from None
    if unknown := [name for name in names if name not in VOC_CLASSES]:
        raise ValueError(f"{path} must have objects of VOC's 20 classes, got {unknown[0]!r}")
    labels = [1 + VOC_CLASSES.index(name) for name in names]
    corners = torch.tensor(boxes).view(-1, 4)
    corners[:, :2] -= 1  # VOC counts pixels from 1
    return corners, torch.tensor(labels, dtype=torch.long), torch.tensor(difficult, dtype=torch.long)


def _coco(path: Path) -> Scenes:
    splits, categories, contents = {}, {}, []
    for part in ("train", "val"):
        found = sorted((path / "annotations").glob(f"instances_{part}*.json"))
        pictures = path / found[0].stem.removeprefix("instances_") if len(found) == 1 else None
        if pictures is None or not pictures.is_dir():
            takes = f"one annotations/instances_{part}*.json and the folder of pictures of its name, as COCO's archives"
            raise FileNotFoundError(f"{path} is no folder in COCO's format: it takes {takes} have them")
        contents.append(found[0].read_bytes())
        splits[part], categories[part] = _coco_split(found[0], contents[-1], pictures)
    if categories["train"] != categories["val"]:
        differ = ", ".join(sorted({name for _, name in categories["train"].items() ^ categories["val"].items()}))
        raise ValueError(f"{path}: train and val differ in their categories: {differ}")
    names = tuple(categories["train"].values())
    moments = IMAGENET_MOMENTS
    return Scenes(path.resolve().name, splits["train"], None, splits["val"], names, *moments, _fingerprint(contents))


def _coco_split(path: Path, content: bytes, pictures: Path) -> tuple[Annotated, dict[int, str]]:
    """The pictures of one file of COCO's annotations, by their ids, and the names of its categories, by theirs.

    Raises:
        ValueError: the file is no JSON, or an entry lacks what it must have.
        FileNotFoundError: a picture is not there.
    """
    try:
        whole = json.loads(content)
        categories = {number: str(item["name"]) for number, item in _by_id(whole, "categories").items()}
        files = {number: pictures / item["file_name"] for number, item in _by_id(whole, "images").items()}
        annotations = whole.get("annotations", [])
        _by_id({"annotations": [item for item in annotations if "id" in item]}, "annotations")
        of_image = {number: [] for number in files}
        for item in annotations:
            of_image.get(item["image_id"], []).append(item)  # other images may have been left out on purpose
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        takes = "images (id, file_name), categories (id, name) and annotations (image_id, category_id, bbox)"
        wrong = f"no {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} must have COCO's {takes}, and cannot be read: {wrong}") from None
    for kind, found in (("picture", files), ("category", categories)):
        if not found:
            raise ValueError(f"{path} must list one {kind} or more, got none")
    for file in files.values():
        if not file.is_file():
            raise FileNotFoundError(f"{path} must name pictures that are there, got {str(file)!r}, which is not")
    labels = {number: k for k, number in enumerate(categories, start=1)}
    objects = [_coco_objects(path, items, labels) for items in of_image.values()]
    return Annotated(list(files.values()), objects), categories


def _by_id(whole: dict, kind: str) -> dict[int, dict]:
    """The entries of one kind in a file of COCO's annotations, sorted by their ids.

    Raises:
        ValueError: two have the same id.
    """
    entries: dict[int, dict] = {}
    for item in sorted(whole[kind], key=lambda item: item["id"]):
        if item["id"] in entries:
            raise ValueError(f"two of its {kind} have the id {item['id']!r}")
        entries[item["id"]] = item
    return entries


def _coco_objects(path: Path, annotations: list[dict], labels: dict[int, int]) -> Objects:
    """The objects in one picture; an annotation that does not say is no crowd."""
    boxes = [_coco_box(path, item) for item in annotations]
    known = list(labels)  # in which anything may be looked for, hashable or not
    for item in annotations:
        if item.get("category_id") not in known:
            raise ValueError(f"{path} must list every category, got category_id {item.get('category_id')!r}")
        if item.get("iscrowd") not in (None, 0, 1):
            raise ValueError(f"{path}: iscrowd must be 0 or 1, got {item['iscrowd']!r}")
    classes = [labels[item["category_id"]] for item in annotations]
    crowd = [int(item.get("iscrowd") or 0) for item in annotations]
    corners = torch.tensor(boxes).view(-1, 4)
    corners[:, 2:] += corners[:, :2]
    return corners, torch.tensor(classes, dtype=torch.long), torch.tensor(crowd, dtype=torch.long)


def _coco_box(path: Path, annotation: dict) -> list[float]:
    """An annotation's x, y, width and height."""
    box = annotation.get("bbox")
    numbers = [as_number(value) for value in box] if isinstance(box, list) else []
    if len(numbers) != 4 or not all(number is not None and math.isfinite(number) for number in numbers):
        raise ValueError(f"{path}: bbox must be [x, y, width, height], got {box!r}")
    if min(numbers[2:]) < 0:
        raise ValueError(f"{path}: bbox must have a width and a height >= 0, got {box!r}")
    return [float(number) for number in numbers]


def _fingerprint(parts: list) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]
