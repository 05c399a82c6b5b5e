"""Losses traced as a whole beside eager ones, for the test that started it: in a process without checked shapes.

Prints a line of JSON for every loss: the largest differences of the loss and of the gradients.
"""

import json

import torch
from torch import nn

from mmlib import DenseMultiMixLoss, MultiMixBCELoss, MultiMixLoss, _backend, dense_mixed_cross_entropy

M, C, D, R, N = 12, 5, 7, 4, 50
source = torch.Generator().manual_seed(0)
logits, at_positions, maps = (torch.randn(M, *shape, generator=source) for shape in [(C,), (R, C), (D, 2, 2)])
labels, hot = torch.randint(C, (M,), generator=source), torch.rand(M, C, generator=source) > 0.5
labels[0] = -100
soft, weights = torch.rand(M, C, generator=source).softmax(1), torch.rand(N, M, generator=source).softmax(1)
attention, mask = torch.rand(M, R, generator=source), torch.rand(M, R, generator=source) > 0.3
head, deep = nn.Linear(D, C), nn.Sequential(nn.Linear(D, D), nn.Tanh(), nn.Linear(D, C))
weighted = {"weight": torch.rand(C, generator=source), "label_smoothing": 0.1, "reduction": "sum"}

LOSSES = {
    "plain": lambda x: MultiMixLoss(N)(x, labels),
    "weighted": lambda x: MultiMixLoss(N, **weighted)(x, labels),
    "each": lambda x: MultiMixLoss(N, reduction="none")(x, labels).mean(),
    "small alpha": lambda x: MultiMixLoss(N, alpha=0.1)(x, labels),
    "distributions": lambda x: MultiMixLoss(N)(x, soft, mixing_weights=weights),
    "weights": lambda x: MultiMixLoss(N)(x, labels, return_mixing_weights=True)[0],
    "evaluation": lambda x: MultiMixLoss(N).eval()(x, labels),
    "binary": lambda x: MultiMixBCELoss(N)(x, hot),
    "dense": lambda x: DenseMultiMixLoss(N)(x, head, labels),
    "dense masked": lambda x: DenseMultiMixLoss(N, **weighted)(x.flatten(2), head, labels, mask=mask),
    "dense cam": lambda x: DenseMultiMixLoss(N, attention="cam", detach_attention=False)(x, head, labels),
    "dense deep": lambda x: DenseMultiMixLoss(N, affine=False)(x, deep, labels),
    "dense function": lambda x: dense_mixed_cross_entropy(x, labels, attention, N),
}


def values_of(loss, values):
    """The loss and its gradients by the values and by both heads."""
    torch.manual_seed(1)
    inputs = [values.clone().requires_grad_(), *head.parameters(), *deep.parameters()]
    found = loss(inputs[0])
    return [found.detach(), *torch.autograd.grad(found, inputs, allow_unused=True, materialize_grads=True)]


_backend.USE_NUMBA = False  # for the eager losses; the compiler leaves numba out by itself
expected = {}
for name, loss in LOSSES.items():
    values = at_positions if name == "dense function" else maps if name.startswith("dense") else logits
    expected[name] = values, values_of(loss, values)
_backend.USE_NUMBA = True
for name, (values, those) in expected.items():
    torch._dynamo.reset()
    compiled = torch.compile(LOSSES[name], backend="aot_eager", fullgraph=True)
    differences = [(a - b).abs().max().item() for a, b in zip(values_of(compiled, values), those, strict=True)]
    print(json.dumps({"name": name, "loss": differences[0], "gradients": max(differences[1:])}))
