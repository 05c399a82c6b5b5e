"""The criteria on the device: against the processor, in half precision, without waiting, in memory flat in n."""

import pytest
import torch
from torch import nn

from mmlib import DenseMultiMixLoss, MultiMixBCELoss, MultiMixLoss, _autograd, sample_mixing_weights, sampling

M, C, D, R, N = 16, 10, 12, 9, 40


def batch(device, dtype):
    generator = torch.Generator("cpu").manual_seed(0)
    logits, features = torch.randn(M, C, generator=generator), torch.randn(M, D, R, generator=generator)
    weights = torch.rand(N, M, generator=generator, dtype=torch.double).softmax(1)
    labels, hot = torch.arange(M) % C, torch.rand(M, C, generator=generator) > 0.7
    head = nn.Linear(D, C)
    for parameter in head.parameters():
        parameter.data.normal_(std=0.3, generator=generator)
    moved = [x.to(device, dtype).requires_grad_() for x in (logits, features)]
    return *moved, weights.to(device, dtype), labels.to(device), hot.to(device), head.to(device, dtype)


def losses(device, dtype, **arguments):
    """Every criterion's loss with given weights, and all gradients, on the host."""
    logits, features, weights, labels, hot, head = batch(device, dtype)
    plain, dense = (kind(N, **arguments).to(device) for kind in (MultiMixLoss, DenseMultiMixLoss))
    cam = DenseMultiMixLoss(N, attention="cam", detach_attention=False, **arguments).to(device)
    deep = DenseMultiMixLoss(N, affine=False, **arguments).to(device)
    found = [plain(logits, labels, mixing_weights=weights), MultiMixBCELoss(N)(logits, hot, mixing_weights=weights)]
    found += [criterion(features, head, labels, mixing_weights=weights) for criterion in (dense, cam, deep)]
    mask = (torch.arange(R) < 5).expand(M, R).to(device)
    found.append(dense(features, head, labels, mask=mask, mixing_weights=weights))
    sum(found).backward()
    gradients = [logits.grad, features.grad, head.weight.grad, head.bias.grad]
    assert all(x.device.type == torch.device(device).type for x in (*found, *gradients))
    return [x.detach().cpu() for x in (*found, *gradients)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("arguments", [{}, {"label_smoothing": 0.1}, {"ignore_index": 3}], ids=str)
def test_losses_and_gradients_are_those_of_the_processor(device, dtype, arguments):
    for found, expected in zip(losses(device, dtype, **arguments), losses("cpu", dtype, **arguments), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("alpha", [0.05, 1.0, (0.5, 2.0), 20.0], ids=str)
def test_drawn_weights_have_the_moments_of_dirichlets(device, alpha):
    n, m = 20_000, 8
    weights = sample_mixing_weights(n, m, alpha, generator=torch.Generator(device).manual_seed(0)).double()
    low, high = alpha if isinstance(alpha, tuple) else (alpha, alpha)
    concentration = torch.linspace(low, high, 10_001, dtype=torch.double)
    variance = ((m - 1) / m**2 / (m * concentration + 1)).mean().item()
    torch.testing.assert_close(weights.sum(1).cpu(), torch.ones(n, dtype=torch.double), rtol=0, atol=1e-5)
    assert weights.mean(0).sub(1 / m).abs().max().item() < 5 * (variance / n) ** 0.5
    assert weights.var(0).mean().item() == pytest.approx(variance, rel=0.05)


@pytest.mark.parametrize("alpha", [1e-30, 1e-3, 1e30], ids=str)
def test_weights_are_numbers_at_every_concentration(device, alpha):
    weights = sample_mixing_weights(50, 8, alpha, generator=torch.Generator(device).manual_seed(0))
    assert weights.isfinite().all()
    torch.testing.assert_close(weights.sum(1).cpu(), torch.ones(50))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_near_single(device, dtype):
    for found, expected in zip(losses(device, dtype), losses("cpu", torch.float32), strict=True):
        assert found.isfinite().all()
        torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_step_under_autocast_lowers_the_loss(device, dtype):
    """With the gradient scaler, as float16 needs it."""
    torch.default_generator.manual_seed(0)
    network, head = nn.Sequential(nn.Linear(C, D), nn.ReLU(), nn.Linear(D, D)).to(device), nn.Linear(D, C).to(device)
    parameters = [*network.parameters(), *head.parameters()]
    optimizer, scaler = torch.optim.Adam(parameters, lr=0.03), torch.amp.GradScaler(device, enabled=device == "cuda")
    generator = torch.Generator(device).manual_seed(0)
    criteria = [kind(500, 0.1, generator=generator) for kind in (MultiMixLoss, DenseMultiMixLoss)]
    labels, history = torch.arange(M, device=device) % C, []
    images = torch.eye(C, device=device)[labels].unsqueeze(1).expand(-1, R, -1)
    for _ in range(60):
        with torch.autocast(device, dtype):
            features = network(images)
            loss = criteria[0](head(features.mean(1)), labels) + criteria[1](features.mT, head, labels)
        assert loss.dtype == torch.float32
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        history.append(loss.item())
    assert history[-1] < 0.8 * history[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_criteria_never_wait(device, no_waits, dtype):
    logits, features, weights, labels, hot, head = batch(device, dtype)
    generator = torch.Generator(device).manual_seed(0)
    plain, dense, binary = (kind(N, generator=generator) for kind in (MultiMixLoss, DenseMultiMixLoss, MultiMixBCELoss))
    with no_waits():
        total = plain(logits, labels) + plain(logits, labels, mixing_weights=weights)
        total = total + dense(features, head, labels) + binary(logits, hot)
        total.backward()


@pytest.mark.parametrize("drawn", [MultiMixLoss, DenseMultiMixLoss])
def test_peak_memory_does_not_grow_with_the_mixtures(device, peak_memory, monkeypatch, drawn):
    monkeypatch.setattr(sampling, "GPU_BLOCK_ELEMENTS", 2**14)
    monkeypatch.setattr(_autograd, "GPU_CHUNK_ELEMENTS", 2**14)
    logits, features, _, labels, _, head = batch(device, torch.float32)
    given = (logits,) if drawn is MultiMixLoss else (features, head)

    def step(n):
        drawn(n, generator=torch.Generator(device).manual_seed(0))(*given, labels).backward()

    step(100)
    few, many = (peak_memory(lambda n=n: step(n)) for n in (4_000, 40_000))
    assert few < 40_000 * M  # bytes: a quarter of what many weights would take
    assert many <= 1.1 * few
