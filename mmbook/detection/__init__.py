"""Object detection: torchvision's SSD and Faster R-CNN on a classifier's encoder, from a run's weights or from scratch.

One run from the command line, from drawing the canvases to its record; it takes minutes, so it writes no checkpoints
and starts anew after a stop:

python -m mmbook.detection --record runs/try.json --detector ssd --start runs/pretraining/.../erm/seed0
"""

from mmbook.detection.config import DETECTORS, MODELS, Config
from mmbook.detection.detectors import build
from mmbook.detection.records import Cell, DetectionRecord, cells, grid_records, load_record, run, table
from mmbook.detection.training import augment, mean_average_precision, predict, train

__all__ = [
    "DETECTORS",
    "MODELS",
    "Cell",
    "Config",
    "DetectionRecord",
    "augment",
    "build",
    "cells",
    "grid_records",
    "load_record",
    "mean_average_precision",
    "predict",
    "run",
    "table",
    "train",
]
