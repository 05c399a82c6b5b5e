"""How often losses are compiled for mini-batches of a dozen sizes, for the test that started it.

Prints a line of JSON for every loss.
"""

import json

import torch
from torch._dynamo.utils import counters

from mmlib import DenseMultiMixLoss, MultiMixLoss

C, D, R = 5, 7, 4
head = torch.nn.Linear(D, C)
LOSSES = {
    "cross-entropy": torch.nn.CrossEntropyLoss(),
    "plain": MultiMixLoss(50),
    "total": MultiMixLoss(50, alpha_is_total=True),
    "dense": lambda x, labels: DenseMultiMixLoss(50)(x[:, :, None] * torch.ones(D, R), head, labels),
}
for name, loss in LOSSES.items():
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for m in range(8, 20):
        values = torch.randn(m, D if name == "dense" else C, requires_grad=True)
        compiled(values, torch.arange(m) % C).backward()
    print(json.dumps({"name": name, "graphs": counters["stats"]["unique_graphs"]}))
