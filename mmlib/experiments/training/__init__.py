"""Training: the configuration of a run, its optimizer, its loop, its checkpoints, its device and its processes."""

from mmlib.experiments.training.checkpoints import Checkpoints
from mmlib.experiments.training.config import Config, load_data
from mmlib.experiments.training.trainer import Trainer, train

__all__ = ["Checkpoints", "Config", "Trainer", "load_data", "train"]
