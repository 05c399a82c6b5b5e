"""Detectors of torchvision on the encoder of a classifier."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.ssd import SSD, SSDHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from mmbook import ledger
from mmbook.detection.config import DTYPES, Config
from mmbook.scenes import Scenes
from mmlib.experiments import models, runs
from mmlib.experiments.models.classifier import Classifier
from mmlib.experiments.seeding import spawn_seeds

MAX_WIDTH = 256  # channels of a pyramid; half of the encoder's where that is less


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed the generators that torchvision's detectors draw from, and restore them afterwards.

    torchvision takes no generator, so these are torch's default generators: the CPU's, and that of the device where it
    is a GPU. Other GPUs are not touched, not even to ask for their state.
    """
    device = torch.device(device)
    gpus = [torch.cuda.current_device() if device.index is None else device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            torch.cuda.default_generators[gpu].manual_seed(seed)
        yield


def load_pretrained(start: str, data: Scenes, config: Config) -> tuple[dict, dict[str, Tensor]]:
    """Load a run's configuration, and the weights of its encoder and normalisation; its head is left behind.

    Raises:
        FileNotFoundError: no finished run with weights is there.
        ValueError: the run is of another model, or of images with other channels.
    """
    path = Path(start)
    try:
        if path.suffix == ".json":
            record = ledger.load_record(path)
        else:
            (path / "metrics.json").stat()  # marks a finished run
            record = None
        pretrain_config = record.config if record else runs.read_json(path / "config.json")
        weights = record.weights() if record else runs.load_weights(path / "checkpoint.pt")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            "start must be the folder of a finished run, or its record in a ledger that keeps weights, "
            f"got {start!r}: {error.filename} does not exist"
        ) from None
    if pretrain_config["model"] != config.model:
        raise ValueError(f"start must be a run of model {config.model!r}, got {start} of {pretrain_config['model']!r}")
    channels = len(weights["mean"])
    if channels != len(data.mean):
        found = f"{start} of {pretrain_config['dataset']} with {channels}"
        raise ValueError(f"start must be a run on images of 3 channels like those of {data.name}, got {found}")
    return pretrain_config, {name: value for name, value in weights.items() if not name.startswith("head.")}


def backbone(config: Config, data: Scenes) -> tuple[Classifier, dict | None]:
    """Build the classifier whose encoder carries a detector, and return the configuration of the run it starts from.

    From scratch, weights are drawn by torch's default generator, and pixels are normalised by the data's statistics.

    Raises:
        ValueError: the run's network was made for images of another size.
    """
    encoder, width = models.MODELS[config.model](len(data.mean), config.backbone_size)
    classifier = Classifier(encoder, width, len(data.class_names), data.mean, data.std)
    if not config.start:
        return classifier, None
    pretrain_config, weights = load_pretrained(config.start, data, config)
    wanted = {name: v.shape for name, v in classifier.state_dict().items() if not name.startswith("head.")}
    if wanted != {name: v.shape for name, v in weights.items()}:
        wanted = f"images of backbone_size {config.backbone_size}"
        raise ValueError(f"start must be a run on {wanted}, got {config.start} on images of another size")
    classifier.load_state_dict(weights, strict=False)
    return classifier, pretrain_config


def pyramid(encoder: nn.Sequential, channels: int, extra: Callable[[int], nn.Module]) -> BackboneWithFPN:
    """Build torchvision's feature pyramid on the encoder's maps that have at most a quarter of the image's side.

    Of several stages with maps of one size, the last one counts.

    Args:
        channels: of the images.
        extra: makes the block that adds coarser maps, from the pyramid's number of channels.

    Source: Lin et al. (CVPR 2017).
    """
    stages = {}
    x = torch.zeros(1, channels, 64, 64)
    with torch.no_grad():
        for name, stage in encoder.eval().named_children():
            x = stage(x)
            stages[x.shape[-1]] = name, x.shape[1]
    names, widths = zip(*(stage for side, stage in stages.items() if 4 * side <= 64))
    width = min(MAX_WIDTH, widths[-1] // 2)
    levels = {name: str(level) for level, name in enumerate(names)}
    return BackboneWithFPN(encoder, levels, list(widths), width, extra(width), nn.BatchNorm2d)


def ssd(classifier: Classifier, classes: int, config: Config) -> SSD:
    """Build torchvision's SSD: default boxes on the pyramid's maps and on two coarser ones, each half of the last.

    Source: Liu et al. (ECCV 2016), there without a pyramid.
    """
    maps = pyramid(classifier.encoder, len(classifier.mean), lambda width: LastLevelP6P7(width, width))
    levels = len(maps.body.return_layers) + 2
    boxes = DefaultBoxGenerator([[2]] * levels)
    head = SSDHead([maps.out_channels] * levels, boxes.num_anchors_per_location(), classes + 1)
    size = (config.size, config.size)
    mean, std = _channel_stats(classifier)
    # COCO's mAP counts the hundred most confident boxes of an image.
    return SSD(maps, boxes, size, classes + 1, mean, std, head=head, detections_per_img=100)


def faster_rcnn(classifier: Classifier, classes: int, config: Config) -> FasterRCNN:
    """Build torchvision's Faster R-CNN: anchors of half the size on the coarsest map, half as large on each finer one.

    Source: Ren et al. (NeurIPS 2015), there without a pyramid.
    """
    maps = pyramid(classifier.encoder, len(classifier.mean), lambda width: LastLevelMaxPool())
    width, pooled = maps.out_channels, list(maps.body.return_layers.values())
    levels = len(pooled) + 1
    mean, std = _channel_stats(classifier)
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


def _channel_stats(classifier: Classifier) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel, with which torchvision's detectors normalise images themselves."""
    return classifier.mean.flatten().tolist(), classifier.std.flatten().tolist()


def build(config: Config, data: Scenes) -> tuple[SSD | FasterRCNN, dict | None]:
    """Build a detector of the configuration's seed on the CPU, in training mode.

    Returns:
        The detector, and the configuration of the run that it starts from, None from scratch.

    >>> from mmbook import scenes
    >>> detector, pretrain_config = build(Config(), scenes.load("canvas", train_images=8))
    """
    with seeded(spawn_seeds(config.seed).weights):
        classifier, pretrain_config = backbone(config, data)
        make = {"ssd": ssd, "fasterrcnn": faster_rcnn}[config.detector]
        detector = make(classifier, len(data.class_names), config)
    detector = detector.to(DTYPES[config.precision]).to(memory_format=torch.channels_last)
    return detector.train(), pretrain_config
