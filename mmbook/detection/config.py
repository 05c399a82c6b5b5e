"""The configuration of a detector's run."""

import dataclasses
from dataclasses import dataclass

import torch

from mmlib._checks import check_choice, check_int, check_range, check_type
from mmlib.experiments import models

DETECTORS = ("ssd", "fasterrcnn")
MODELS = [name for name in models.MODELS if not name.startswith("vit")]
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Config:
    """Everything that decides the result of a run.

    Args:
        dataset: `canvas`, `voc`, or a folder in COCO's format (`scenes.load`).
        model: a convolutional one of `models.MODELS`: a pyramid needs maps of several sizes, and a ViT has one.
        detector: a name in `DETECTORS`.
        start: folder of a finished run, or its record in a ledger with weights; empty starts from scratch.
        seed: of training canvases, initial weights, order, and all that the detector draws.
        train_images: canvases to train on.
        size: pixels on a side; SSD resizes images to it, Faster R-CNN their shorter side.
        backbone_size: pixels on a side of the images that the model was made for, 32 for `shapes` and CIFAR; it decides
            how many stages `preactresnet-small` has.
        proposals: of Faster R-CNN's first stage, per image; torchvision's default is 2000.
        epochs: whole passes over the training images; the last one is evaluated.
        batch_size: images in a mini-batch.
        lr: the highest learning rate of AdamW; it rises for a fifth of the steps and then falls to zero (one cycle).
        weight_decay: of AdamW.
        precision: `float32` or `float64`.

    Raises:
        TypeError: a value of the wrong type.
        ValueError: a value that is out of range or not one of the choices.

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
            check_choice(name, getattr(self, name), choices)
        check_int(seed=self.seed)
        check_int(1, train_images=self.train_images, epochs=self.epochs)
        check_int(2, batch_size=self.batch_size)  # as batch normalisation does
        check_int(4, proposals=self.proposals)
        check_int(8, backbone_size=self.backbone_size)
        check_int(32, size=self.size)
        check_range(lr=self.lr, weight_decay=self.weight_decay)
