"""One step under torchrun: every process saves its gradients, and what only it knows, for the test that started it."""

import sys
from pathlib import Path

import torch

from mmlib import data, distributed
from mmlib.train import Config, Training

folder, method = Path(sys.argv[1]), sys.argv[2]
distributed.start("cpu")
run = Training(
    Config(method=method, precision="float64", batch_size=20, options={"probability": 1.0}), data.load("digits")
)
images, labels = next(iter(run.batches))
run.loss.train()(images, labels).backward()
gradients = {name: p.grad for name, p in run.classifier.named_parameters()}
weights_next = torch.rand(3, generator=run.objective.generator)
buffers = dict(run.classifier.named_buffers())
torch.save(
    {"images": images, "labels": labels, "gradients": gradients, "drawn": weights_next, "buffers": buffers},
    folder / f"rank{distributed.rank()}.pt",
)
distributed.stop()
