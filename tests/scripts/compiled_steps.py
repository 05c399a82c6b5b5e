"""Steps under `torch.compile` beside eager ones, for the test that started it: in a process without checked shapes.

Prints a line of JSON for every method and for what is compiled, the method or the whole step: the largest
differences over the steps, the branches taken, and how many graphs were compiled until each step.
"""

import json
import sys

import torch
from torch._dynamo.backends.registry import lookup_backend

from mmlib.experiments.methods import METHODS
from mmlib.experiments.models.classifier import Classifier
from mmlib.experiments.models.preact_resnet import preact_resnet

SEED, STEPS = 85, 6  # the seed at which MultiMix takes its two branches in turn


def make(name):
    torch.manual_seed(0)
    classifier = Classifier(preact_resnet(1, 8, (1,)), 8, classes=3, mean=(0.4,), std=(0.2,)).double()
    return METHODS[name](classifier, seed=SEED, **({"num_mixtures": 20} if "multimix" in name else {})).train()


def step(method, images, labels):
    loss = method(images, labels)
    loss.backward()
    return loss.detach()


def difference(ones, others):
    return max((a - b).abs().max().item() for a, b in zip(ones, others, strict=True))


def compare(name, whole, found):
    """Run the steps of two equal methods, one of them compiled; `found` is filled on the way."""
    torch._dynamo.reset()
    aot_eager, graphs = lookup_backend("aot_eager"), []

    def backend(graph, inputs):
        graphs.append(graph)
        return aot_eager(graph, inputs)

    eager, ours = make(name), make(name)
    flip_coin = eager.flip_coin
    eager.flip_coin = lambda probability: found["branches"].append(flip_coin(probability)) or found["branches"][-1]
    compiled = torch.compile(step if whole else ours, backend=backend)
    source = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        images = torch.rand(6, 1, 8, 8, generator=source, dtype=torch.double)
        labels = torch.randint(3, (6,), generator=source)
        losses = (
            compiled(ours, images, labels) if whole else step(compiled, images, labels),
            step(eager, images, labels),
        )
        gradients = ([p.grad for p in method.parameters()] for method in (ours, eager))
        found["loss"].append(difference(*([loss] for loss in losses)))
        found["gradient"].append(difference(*gradients))
        found["buffer"].append(difference(ours.buffers(), eager.buffers()))
        found["graphs"].append(len(graphs))
        eager.zero_grad()
        ours.zero_grad()


for name in sys.argv[1:]:
    for whole in (False, True):
        found = {key: [] for key in ("loss", "gradient", "buffer", "graphs", "branches")}
        compare(name, whole, found)
        print(json.dumps({"name": name, "whole": whole} | found))
