"""Object detection: torchvision's SSD and Faster R-CNN on a classifier's encoder, from a run's weights or from scratch.

One run, from drawing the canvases to its record; it takes minutes, so it has no checkpoints and starts anew if stopped:

python -m mmbook.detection record=runs/try.json detector=ssd start=runs/pretraining/shapes/preactresnet-small/erm/seed0
"""

import dataclasses
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.ssd import SSD, SSDHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7
from torchvision.transforms import v2

from mmbook import scenes
from mmbook.ledger import contents
from mmbook.ledger import read as read_run
from mmbook.notebook import project_root
from mmbook.scenes import Scenes
from mmlib._checks import check_int, check_range, check_type
from mmlib.experiments import models, runs
from mmlib.experiments.arguments import read_arguments
from mmlib.experiments.models.classifier import Classifier
from mmlib.experiments.provenance import environment

WIDTH = 256  # channels of a pyramid, at most; half of the encoder's where that is less
SHOWN, LEAST_SCORE = 8, 0.3  # test pictures whose predictions a record keeps, and how sure those are
MODELS = [name for name in models.MODELS if not name.startswith("vit")]
AUGMENTATION = v2.Compose(
    [
        v2.RandomHorizontalFlip(),
        v2.SanitizeBoundingBoxes(labels_getter=lambda target: (target[1]["labels"], target[1]["iscrowd"])),
        v2.ToDtype(torch.float32, scale=True),
    ]
)
DTYPES = {"float32": torch.float32, "float64": torch.float64}

Found = list[dict[str, Tensor]]


@dataclass(frozen=True)
class Config:
    """Everything that decides the result of a run.

    Args:
        dataset: `canvas`, `voc`, or a folder in COCO's format (`scenes.load`).
        model: a convolutional one of `models.MODELS`: a pyramid takes maps of several sizes, of which a ViT has one.
        detector: a name in `DETECTORS`.
        start: folder of a finished run, or its record in a ledger with weights; empty starts from scratch.
        seed: of training canvases, initial weights, order, and all that the detector draws.
        train_images: canvases to train on.
        size: pixels on a side; SSD brings pictures to it, Faster R-CNN their shorter side.
        backbone_size: pixels on a side of the images that the model was made for, 32 of `shapes` and CIFAR;
            `preactresnet-small` has so many stages.
        proposals: of Faster R-CNN's first stage, per picture; 2000 is torchvision's.
        epochs, batch_size: whole passes over the training pictures; the last one is evaluated.
        lr, weight_decay: of AdamW; the rate rises for a fifth of the steps and then falls to zero (one cycle).
        precision: `float32` or `float64`.

    Raises:
        ValueError: a value that cannot be, with the name of the parameter and what it takes.

    >>> Config(detector="fasterrcnn").dataset
    'canvas'
    """

    dataset: str = "canvas"
    model: str = "preactresnet-small"
    detector: str = "ssd"
    start: str = ""
    seed: int = 0
    train_images: int = 400
    size: int = 64
    backbone_size: int = 32
    proposals: int = 200
    epochs: int = 20
    batch_size: int = 8
    lr: float = 0.002
    weight_decay: float = 1e-4
    precision: str = "float32"

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            check_type(f.name, getattr(self, f.name), f.type)
        for name, choices in (("model", MODELS), ("detector", DETECTORS), ("precision", DTYPES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; a detector takes {', '.join(choices)}")
        check_int(seed=self.seed)
        check_int(1, train_images=self.train_images, epochs=self.epochs)
        check_int(2, batch_size=self.batch_size)  # as batch normalisation does
        check_int(4, proposals=self.proposals)
        check_int(8, backbone_size=self.backbone_size)
        check_int(32, size=self.size)
        check_range(lr=self.lr, weight_decay=self.weight_decay)


def pretrained(start: str, data: Scenes, config: Config) -> tuple[dict, dict[str, Tensor]]:
    """The configuration of the run that `start` names, and its encoder and normalisation; its head is left behind.

    Raises:
        FileNotFoundError: no finished run with weights is there.
        ValueError: it is of another model, or of images with other channels or of another size.
    """
    path = Path(start)
    try:
        if path.suffix == ".json":
            record = read_run(path)
            made, weights = record.config, record.weights()
        else:
            (path / "metrics.json").stat()  # marks it finished
            made, weights = json.loads((path / "config.json").read_text()), runs.weights(path / "checkpoint.pt")
    except FileNotFoundError as error:
        takes = "it takes the folder of a finished run, or its record in a ledger that keeps weights"
        raise FileNotFoundError(f"start is {start!r}, and {error.filename} is not there; {takes}") from None
    if made["model"] != config.model:
        raise ValueError(f"start {start} is of model {made['model']!r}, not {config.model!r}")
    channels = len(weights["mean"])
    if channels != len(data.mean):
        raise ValueError(f"start {start} is of {made['dataset']}, images of {channels} channel; {data.name} has 3")
    return made, {name: value for name, value in weights.items() if not name.startswith("head.")}


def backbone(config: Config, data: Scenes) -> tuple[Classifier, dict | None]:
    """The classifier whose encoder a detector is built on, and the configuration of the run that it comes from.

    From scratch, weights are drawn by torch's global generator and pixels normalised by the data's own statistics.
    """
    encoder, width = models.MODELS[config.model](len(data.mean), config.backbone_size)
    classifier = Classifier(encoder, width, len(data.class_names), data.mean, data.std)
    if not config.start:
        return classifier, None
    made, weights = pretrained(config.start, data, config)
    held = {name: value for name, value in classifier.state_dict().items() if not name.startswith("head.")}
    if {name: value.shape for name, value in held.items()} != {name: value.shape for name, value in weights.items()}:
        raise ValueError(f"start {config.start} is of images of another size than backbone_size {config.backbone_size}")
    classifier.load_state_dict(weights, strict=False)
    return classifier, made


def pyramid(encoder: nn.Sequential, channels: int, extra: Callable[[int], nn.Module]) -> BackboneWithFPN:
    """torchvision's feature pyramid on the last stage of every map from a quarter of a side on, and `extra`'s maps.

    Source: Lin et al. (CVPR 2017).
    """
    maps = {}
    x = torch.zeros(1, channels, 64, 64)
    with torch.no_grad():
        for name, stage in encoder.eval().named_children():
            x = stage(x)
            maps[x.shape[-1]] = name, x.shape[1]
    names, inputs = zip(*(of_side for side, of_side in maps.items() if 4 * side <= 64))
    width = min(WIDTH, inputs[-1] // 2)
    of_stage = {name: str(level) for level, name in enumerate(names)}
    return BackboneWithFPN(encoder, of_stage, list(inputs), width, extra(width), nn.BatchNorm2d)


def ssd(classifier: Classifier, classes: int, config: Config) -> SSD:
    """torchvision's SSD: default boxes on the pyramid's maps and two coarser ones, each half of the one before.

    Source: Liu et al. (ECCV 2016), there without a pyramid.
    """
    maps = pyramid(classifier.encoder, len(classifier.mean), lambda width: LastLevelP6P7(width, width))
    levels = len(maps.body.return_layers) + 2
    boxes = DefaultBoxGenerator([[2]] * levels)
    head = SSDHead([maps.out_channels] * levels, boxes.num_anchors_per_location(), classes + 1)
    size = (config.size, config.size)
    # COCO's mAP counts the hundred surest of a picture.
    return SSD(maps, boxes, size, classes + 1, *_moments(classifier), head=head, detections_per_img=100)


def faster_rcnn(classifier: Classifier, classes: int, config: Config) -> FasterRCNN:
    """torchvision's Faster R-CNN: anchors of half the size on the coarsest map, and half as large on each finer one.

    Source: Ren et al. (NeurIPS 2015), there without a pyramid.
    """
    maps = pyramid(classifier.encoder, len(classifier.mean), lambda width: LastLevelMaxPool())
    width, pooled = maps.out_channels, list(maps.body.return_layers.values())
    levels = len(pooled) + 1
    mean, std = _moments(classifier)
    return FasterRCNN(
        maps,
        min_size=config.size,
        max_size=2 * config.size,
        image_mean=mean,
        image_std=std,
        rpn_anchor_generator=AnchorGenerator(
            tuple((config.size // 2 ** (levels - level),) for level in range(levels)), ((0.5, 1.0, 2.0),) * levels
        ),
        rpn_pre_nms_top_n_train=config.proposals,
        rpn_post_nms_top_n_train=config.proposals,
        rpn_pre_nms_top_n_test=config.proposals // 2,
        rpn_post_nms_top_n_test=config.proposals // 2,
        box_batch_size_per_image=config.proposals // 4,
        box_roi_pool=MultiScaleRoIAlign(pooled, 7, 2),
        box_head=TwoMLPHead(49 * width, 4 * width),
        box_predictor=FastRCNNPredictor(4 * width, classes + 1),
    )


DETECTORS = {"ssd": ssd, "fasterrcnn": faster_rcnn}


def _moments(classifier: Classifier) -> tuple[list[float], list[float]]:
    """torchvision's detectors normalise themselves, as the classifier does."""
    return classifier.mean.flatten().tolist(), classifier.std.flatten().tolist()


def build(config: Config, data: Scenes) -> tuple[SSD | FasterRCNN, dict | None]:
    """A detector of the configuration's seed, in training mode, and the configuration of the run that it starts from.

    >>> data = scenes.load("canvas", train_images=8)
    >>> detector, made = build(Config(), data)
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        classifier, made = backbone(config, data)
        detector = DETECTORS[config.detector](classifier, len(data.class_names), config)
    return detector.to(DTYPES[config.precision]).to(memory_format=torch.channels_last).train(), made


def augment(examples: list[scenes.Example]) -> tuple[list[Tensor], Found]:
    """A mini-batch: pictures in [0, 1], each mirrored with probability 1/2, boxes and labels of what is no crowd."""
    images, targets = zip(*(AUGMENTATION(*example) for example in examples))
    kept = [{name: target[name][target["iscrowd"] == 0] for name in ("boxes", "labels")} for target in targets]
    return [image.as_subclass(Tensor) for image in images], kept


def train(detector: nn.Module, config: Config, data: Scenes, *, workers: int = 0) -> list[dict]:
    """Train a detector, where it is, for the whole schedule; one row of history an epoch.

    Args:
        workers: processes that read pictures.

    Raises:
        FloatingPointError: a loss that is not finite, with its step, detector and seed.
    """
    options = {"shuffle": True, "drop_last": True, "collate_fn": augment, "num_workers": workers}
    batches = DataLoader(data.train, config.batch_size, **options)
    if not len(batches):
        raise ValueError(f"batch_size is {config.batch_size}; {data.name} has {len(data.train)} pictures to train on")
    like = next(detector.parameters())
    optimizer = torch.optim.AdamW(detector.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.lr, config.epochs * len(batches), pct_start=0.2, cycle_momentum=False
    )
    history = []
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        for epoch in range(config.epochs):
            start, total, lr = time.perf_counter(), 0.0, schedule.get_last_lr()[0]
            for step, (images, targets) in enumerate(batches, start=epoch * len(batches)):
                total += _step(detector, _like(images, like), [_like(target, like) for target in targets], optimizer)
                if not math.isfinite(total):
                    at = f"step {step} of {config.detector}, seed {config.seed}"
                    raise FloatingPointError(f"the loss is not finite at {at}; a lower lr may help")
                schedule.step()
            seconds = time.perf_counter() - start
            history.append({"epoch": epoch + 1, "lr": lr, "loss": total / len(batches), "seconds": seconds})
    detector.eval()
    return history


def _step(detector: nn.Module, images: list[Tensor], targets: Found, optimizer: torch.optim.Optimizer) -> float:
    loss = sum(detector(images, targets).values())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def _like(values: list[Tensor] | dict[str, Tensor], like: Tensor) -> list[Tensor] | dict[str, Tensor]:
    """Tensors on the device of `like`, floating-point ones in its precision."""
    if isinstance(values, dict):
        return dict(zip(values, _like(list(values.values()), like)))
    return [value.to(like if value.is_floating_point() else like.device) for value in values]


@torch.no_grad()
def predict(detector: nn.Module, split: Dataset, batch_size: int = 50) -> tuple[Found, Found]:
    """Boxes, labels and scores that a detector, in evaluation mode, finds in every picture; and what is there."""
    like, found, there = next(detector.parameters()), [], []
    detector.eval()
    for examples in DataLoader(split, batch_size, collate_fn=list, generator=torch.Generator()):  # not the global one
        images = _like([image.as_subclass(Tensor).float() / 255 for image, _ in examples], like)
        found += [{name: value.cpu() for name, value in of_one.items()} for of_one in detector(images)]
        there += [target for _, target in examples]
    return found, there


def mean_average_precision(found: Found, there: Found, classes: int) -> dict[str, float | list[float | None]]:
    """COCO's mAP in percent, by torchmetrics: over IoU 0.5 to 0.95 (`map`), at 0.5 and at 0.75.

    Args:
        found, there: as `predict` gives them; what is marked `iscrowd` counts neither as found nor as missed.
        classes: c.

    Returns:
        The numbers by name; `class_map` has one for every class, None where there is no object of it.

    Source: Lin et al. (ECCV 2014).

    >>> there = [{"boxes": torch.tensor([[0.0, 0.0, 9.0, 9.0]]), "labels": torch.tensor([1])}]
    >>> mean_average_precision([there[0] | {"scores": torch.ones(1)}], there, 1)["map"]
    100.0
    """
    from torchmetrics.detection import MeanAveragePrecision

    metric = MeanAveragePrecision(class_metrics=True)
    metric.update(found, there)
    values = metric.compute()
    of_class = dict(zip(values["classes"].view(-1).tolist(), values["map_per_class"].view(-1).tolist()))
    by_class = [of_class.get(label, -1) for label in range(1, classes + 1)]
    numbers = {name: 100 * values[name].item() for name in ("map", "map_50", "map_75")}
    return numbers | {"class_map": [None if value < 0 else 100 * value for value in by_class]}


def run(config: Config, path: Path, *, root: str | Path = "data", device: str = "cpu", workers: int = 0) -> dict:
    """Train and evaluate a detector and write its record, whole or not at all.

    Args:
        path: of the record, a `.json` file that is not there yet.
        root: where VOC lies.
        device: `cpu` or `cuda`.

    Returns:
        What was written, configuration, the run started from, metrics of the test split (and the mAP of the
        validation split where there is one), history, environment, and what was found in the first test pictures.

    Raises:
        ValueError: a file that is there, or is no `.json`; `mmbook.ledger.contents` reads it back.
    """
    if path.suffix != ".json" or path.exists():
        raise ValueError(f"record is {str(path)!r}; it takes a .json file that is not there yet")
    of_canvas = {"seed": config.seed, "train_images": config.train_images, "size": config.size}
    data = scenes.load(config.dataset, root=root, **of_canvas)
    detector, made = build(config, data)
    weights = _fingerprint(detector.backbone.body) if made else None
    history = train(detector.to(device), config, data, workers=workers)
    classes = len(data.class_names)
    found, there = predict(detector, data.test)
    metrics = mean_average_precision(found, there, classes)
    validation = data.validation and mean_average_precision(*predict(detector, data.validation), classes)["map"]
    of_start = ("dataset", "model", "method", "options", "seed", "epochs", "digest")
    described = dataclasses.asdict(config) | {
        "dataset": data.name,
        "data": data.fingerprint,
        "start": made and {name: made[name] for name in of_start} | {"weights": weights},
    }
    content = {
        "config": described | {"digest": runs.checksum(described)},
        "metrics": metrics | {"validation_map": validation},
        "history": history,
        "environment": environment(device) | {"train_seconds": sum(row["seconds"] for row in history)},
        "predictions": [_sure(of_one) for of_one in found[:SHOWN]],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    runs.write_json(path, content | {"checksum": runs.checksum(content)})
    return content


def _fingerprint(encoder: nn.Module) -> str:
    """16 hexadecimal digits of all weights and buffers."""
    arrays = (value.cpu().contiguous().numpy() for value in encoder.state_dict().values())
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]


def _sure(found: dict[str, Tensor]) -> dict[str, list]:
    kept = found["scores"] >= LEAST_SCORE
    numbers = {name: value[kept] for name, value in found.items()}
    return {
        "boxes": [[round(x, 1) for x in box] for box in numbers["boxes"].tolist()],
        "labels": numbers["labels"].tolist(),
        "scores": [round(x, 3) for x in numbers["scores"].tolist()],
    }


def cells() -> dict[Path, Config]:
    """The runs of `detection.yml` by the place of their record, seed by seed.

    Raises:
        FileNotFoundError: there is no `detection.yml` here: it lies in the root of a clone.

    >>> str(next(iter(cells())))
    'canvas/preactresnet-small/ssd/scratch/seed0.json'
    """
    import yaml

    path = project_root() / "detection.yml"
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; it is read in a clone of the repository")
    grid = yaml.safe_load(path.read_text())
    return {
        Path(grid["dataset"], grid["settings"]["model"], detector, name, f"seed{seed}.json"): Config(
            dataset=grid["dataset"],
            detector=detector,
            start=start and f"{start}/seed{seed}",
            seed=seed,
            **grid["settings"] | of_detector,
        )
        for seed in grid["seeds"]
        for detector, of_detector in grid["detectors"].items()
        for name, start in grid["starts"].items()
    }


def recorded(root: Path | str = "book/results/detection") -> tuple[dict[Path, dict], list[Path], list[str]]:
    """The records of `detection.yml`'s runs by place, the places without one, and a line for each that was left out.

    Args:
        root: below the root of the clone, where it is relative.
    """
    found, refused = {}, []
    for place, config in cells().items():
        try:
            content = contents(project_root() / root / place)
        except FileNotFoundError:
            continue
        except ValueError as error:
            refused.append(str(error))
            continue
        held, wanted = content["config"], dataclasses.asdict(config)
        differ = [name for name, value in wanted.items() if name not in ("dataset", "start") and held[name] != value]
        if differ:
            name = differ[0]
            refused.append(f"{place} is left out: {name} is {held[name]!r}, the grid has {wanted[name]!r}")
        else:
            found[place] = content
    return found, [place for place in cells() if place not in found], refused


def table(found: dict[Path, dict]) -> list[dict]:
    """One row a record: detector, start, as the grid calls it, seed, and its single numbers.

    >>> table({})
    []
    """
    return [
        {"detector": content["config"]["detector"], "start": place.parts[-2], "seed": content["config"]["seed"]}
        | {name: value for name, value in content["metrics"].items() if not isinstance(value, list)}
        for place, content in found.items()
    ]


def main(arguments: list[str]) -> None:
    """One run by `name=value` arguments: `Config`'s fields, and `record`, `root`, `device`, `workers`, `threads`."""
    beside = {"record": str, "root": str, "device": str, "workers": int, "threads": int}
    values = read_arguments(arguments, {field.name for field in dataclasses.fields(Config)} | beside.keys())
    places = {name: values.pop(name) for name in beside if name in values}
    for name, value in places.items():
        check_type(name, value, beside[name])
    if "record" not in places:
        raise ValueError("record is missing; it takes the place of the record, a .json file")
    torch.set_num_threads(places.pop("threads", torch.get_num_threads()))
    path = Path(places.pop("record"))
    content = run(Config(**values), path, **places)
    print(f"{path}: test mAP {content['metrics']['map']:.2f} % after {len(content['history'])} epochs")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"mmbook.detection: {error}")
