"""The learning rate's schedule and the optimiser."""

import math

import torch

from mmlib.experiments import models
from mmlib.experiments.training.config import Config


def learning_rate(config: Config, progress: float) -> float:
    """The learning rate once `progress`, from 0 to 1, of the training is done.

    >>> [round(learning_rate(Config(lr=0.1, schedule="steps"), p), 6) for p in (0, 0.25, 0.5, 0.75)]
    [0.1, 0.01, 0.001, 0.0001]
    """
    warmth = progress * config.epochs / config.warmup_epochs if config.warmup_epochs else 1
    if config.schedule == "steps":
        decay = 0.1 ** sum(progress >= milestone for milestone in config.milestones)
    else:
        decay = (1 + math.cos(math.pi * progress)) / 2
    return config.lr * min(1, warmth) * decay


def make_optimizer(config: Config, classifier: models.Classifier) -> torch.optim.Optimizer:
    """SGD with momentum over all parameters alike, or AdamW that decays matrices and convolutions alone.

    The latter is DeiT's published recipe (Touvron et al., ICML 2021), as timm's `param_groups_weight_decay` reads it.
    """
    same = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    if config.optimizer == "sgd":
        return torch.optim.SGD(classifier.parameters(), momentum=config.momentum, **same)
    decayed, others = [], []
    for name, parameter in classifier.named_parameters():
        (others if parameter.ndim < 2 or name.endswith("places") else decayed).append(parameter)
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(config.momentum, 0.999), **same)
