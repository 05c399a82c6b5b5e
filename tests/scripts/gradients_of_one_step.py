"""One step under torchrun: every process saves its gradients, and what only it knows, for the test that started it."""

import sys
from pathlib import Path

import torch

from mmlib.experiments import data
from mmlib.experiments.training import distributed
from mmlib.experiments.training.config import Config
from mmlib.experiments.training.trainer import Trainer

folder, method = Path(sys.argv[1]), sys.argv[2]
distributed.init("cpu")
run = Trainer(
    Config(method=method, precision="float64", batch_size=20, options={"probability": 1.0}), data.load("digits")
)
images, labels = next(iter(run.batches))
run.step_module.train()(images, labels).backward()
gradients = {name: p.grad for name, p in run.classifier.named_parameters()}
weights_next = torch.rand(3, generator=run.method.generator)
buffers = dict(run.classifier.named_buffers())
torch.save(
    {"images": images, "labels": labels, "gradients": gradients, "drawn": weights_next, "buffers": buffers},
    folder / f"rank{distributed.rank()}.pt",
)
distributed.shutdown()
