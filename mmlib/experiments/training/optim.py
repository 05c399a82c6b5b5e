"""The learning rate's schedule and the optimizer."""

import math

import torch

from mmlib.experiments import models
from mmlib.experiments.training.config import Config


def warmup_factor(config: Config, progress: float) -> float:
    """Return the factor from 0 to 1 by which the warm-up multiplies the schedule.

    Args:
        progress: the fraction of the training that is done.

    >>> [warmup_factor(Config(epochs=10, warmup_epochs=2), progress) for progress in (0, 0.1, 0.2, 0.5)]
    [0.0, 0.5, 1.0, 1.0]
    """
    if config.warmup_epochs == 0:
        return 1.0
    return min(1.0, progress * config.epochs / config.warmup_epochs)


def learning_rate(config: Config, progress: float) -> float:
    """Return the learning rate at a moment of the training.

    Args:
        progress: the fraction of the training that is done, from 0 to 1.

    >>> [round(learning_rate(Config(lr=0.1, schedule="steps"), progress), 6) for progress in (0, 0.25, 0.5, 0.75)]
    [0.1, 0.01, 0.001, 0.0001]
    """
    if config.schedule == "steps":
        decay = 0.1 ** sum(progress >= milestone for milestone in config.milestones)
    else:
        decay = (1 + math.cos(math.pi * progress)) / 2
    return config.lr * warmup_factor(config, progress) * decay


def make_optimizer(config: Config, classifier: models.Classifier) -> torch.optim.Optimizer:
    """Make SGD with momentum, which decays all parameters alike, or AdamW, which decays matrices and convolutions.

    AdamW spares biases, norms and the parameters that `classifier.no_weight_decay()` names: DeiT's published recipe
    (Touvron et al., ICML 2021), as timm's `param_groups_weight_decay` reads it.
    """
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            classifier.parameters(),
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            fused=True,
        )
    spared = classifier.no_weight_decay()
    decayed, not_decayed = [], []
    for name, parameter in classifier.named_parameters():
        (not_decayed if parameter.ndim < 2 or name in spared else decayed).append(parameter)
    return torch.optim.AdamW(
        [{"params": decayed}, {"params": not_decayed, "weight_decay": 0.0}],
        lr=config.lr,
        betas=(config.momentum, 0.999),
        weight_decay=config.weight_decay,
        fused=True,
    )
