"""Code of a user that a type checker must accept: `make lint` checks it, and nothing runs it."""

import torch

from mmlib import MultiMixLoss, dense_mixed_cross_entropy, mixed_cross_entropy

logits, labels = torch.randn(8, 3, requires_grad=True), torch.arange(8) % 3

loss = mixed_cross_entropy(logits, labels)
loss.backward()
loss, mixing_weights = mixed_cross_entropy(logits, labels, return_mixing_weights=True)
at_positions = logits.unsqueeze(1)
dense_mixed_cross_entropy(at_positions, labels, torch.ones(8, 1), mixing_weights=mixing_weights).backward()
MultiMixLoss(alpha=[0.5, 2.0]).forward(logits, labels).backward()
