"""Training methods on the device: all of them against the processor, in half precision, and which never wait."""

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from mmlib.experiments.methods import METHODS
from mmlib.experiments.methods.base import option_names
from mmlib.experiments.training import Config, Trainer
from mmlib.experiments.training.trainer import train_epoch

NO_WAITS = ["erm", "mixup", "cutmix", "multimix", "dense_multimix", "multimix_distill", "dense_multimix_distill"]


class DrawnOnTheHost(TorchFunctionMode):
    """Generators of the device give the numbers that those of the processor give from the same seeds."""

    def __init__(self):
        super().__init__()
        self.twins = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        generator = kwargs.get("generator")
        if generator is None or generator.device.type == "cpu":
            return func(*args, **kwargs)
        twin = torch.Generator("cpu").manual_seed(generator.initial_seed())
        kwargs["generator"] = self.twins.setdefault(generator, twin)
        if "device" in kwargs or not isinstance(args[0], Tensor):
            kwargs["device"] = "cpu"
        drawn = func(*tree_map_only(Tensor, lambda x: x.cpu(), args), **kwargs)
        return args[0].copy_(drawn) if func.__name__.endswith("_") else drawn.to(generator.device)


def config(name, **overrides):
    options = {"num_mixtures": 50} if "num_mixtures" in option_names(METHODS[name]) else {}
    return Config(**{"dataset": "noise", "method": name, "options": options, "epochs": 4, "batch_size": 4, **overrides})


def trained(name, dataset, device, epochs, **overrides):
    trainer = Trainer(config(name, **overrides), dataset, device)
    losses = torch.cat([train_epoch(trainer, epoch) for epoch in range(epochs)])
    return losses.cpu(), {key: value.cpu() for key, value in trainer.classifier.state_dict().items()}


def few(dataset):
    """Two steps an epoch: Co-Mixup takes seconds for each."""
    return dataclasses.replace(dataset, train=dataset.train[:8])


@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_as_on_the_processor(device, dataset, name):
    """In double precision, with the processor's random numbers."""
    if name == "puzzlemix":
        pytest.importorskip("scipy")
    with DrawnOnTheHost():
        losses, weights = trained(name, few(dataset), device, 1, precision="float64")
    expected_losses, expected_weights = trained(name, few(dataset), "cpu", 1, precision="float64")
    torch.testing.assert_close(losses, expected_losses, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(weights, expected_weights, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_in_half_precision(device, dataset, name):
    if name == "puzzlemix":
        pytest.importorskip("scipy")
    losses, weights = trained(name, few(dataset), device, 1, precision="bfloat16")
    assert losses.isfinite().all()
    assert all(value.isfinite().all() and value.dtype != torch.bfloat16 for value in weights.values())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NO_WAITS)
def test_an_epoch_never_waits(device, no_waits, dataset, name, precision):
    """Four epochs of six steps: the coin falls on both sides."""
    trainer = Trainer(config(name, precision=precision), dataset, device)
    train_epoch(trainer, 0)
    with no_waits():
        for epoch in range(4):
            losses = train_epoch(trainer, epoch)
    assert losses.isfinite().all()


@pytest.mark.parametrize("name", ["multimix", "dense_multimix", "multimix_distill"])
def test_a_vision_transformer_trains(device, dataset, name):
    pytest.importorskip("timm")
    losses, _ = trained(name, dataset, device, 1, model="vit-tiny", precision="bfloat16", optimizer="adamw", lr=0.001)
    assert losses.isfinite().all()
