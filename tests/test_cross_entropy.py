"""The loss of labels in single precision, compiled and not, against the formulas as they read, in double precision."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import mmlib._autograd
import mmlib._backend
import mmlib._cpu_kernels
import mmlib.sampling
from mmlib import dense_mixed_cross_entropy, mixed_cross_entropy, sample_mixing_weights
from tests.reference import mixtures

M = 40
CLOSE = {"rtol": 1e-5, "atol": 1e-7}


@pytest.fixture(params=["numba", "torch"], autouse=True)
def path(request, monkeypatch):
    """Run on the compiled code, or on torch's operations alone as a GPU does."""
    monkeypatch.setattr(mmlib._backend, "USE_NUMBA", request.param == "numba")
    return request.param


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problem(c: int, r: int | None, scale: float = 3.0):
    """Logits that ask for gradients, labels, and attention with holes where there are positions."""
    logits = scale * torch.randn(M, *([] if r is None else [r]), c, generator=generator(1))
    classes = torch.randint(c, (M,), generator=generator(2))
    if r is None:
        return logits.requires_grad_(), (classes,)
    attention = torch.rand(M, r, generator=generator(3))
    attention[:, 0], attention[3] = 0, 0  # a position that nobody attends to, an example that attends to nothing
    return logits.requires_grad_(), (classes, attention)


def loss_of(logits, given, **mixtures_of):
    return (mixed_cross_entropy if len(given) == 1 else dense_mixed_cross_entropy)(logits, *given, **mixtures_of)


def expected_of(logits, given, weights):
    """The reference's value and gradient."""
    exact, weights = logits.detach().double().requires_grad_(), weights.double()
    labels = F.one_hot(given[0].long(), logits.shape[-1]).double()
    if len(given) == 1:
        value = mixtures.multimix(exact, lambda z: z, labels, weights)
    else:
        full = labels[:, None].expand(logits.shape)
        value = mixtures.dense_multimix(exact.mT, lambda z: z, full, given[1].double(), weights)
    value.backward()
    return value.detach(), exact.grad


@pytest.mark.parametrize("n", [1, 127, pytest.param(300, marks=pytest.mark.slow)])  # a literal loop over all mixtures
@pytest.mark.parametrize("r", [None, 1, 3])
@pytest.mark.parametrize("c", [2, 61])
def test_value_and_gradient(c, r, n):
    logits, given = problem(c, r)
    weights = sample_mixing_weights(n, M, generator=generator(4))
    value = loss_of(logits, given, num_mixtures=n, generator=generator(4))
    (3 * value).backward()
    expected, gradient = expected_of(logits, given, weights)
    torch.testing.assert_close(value.double(), expected, **CLOSE)
    torch.testing.assert_close(logits.grad.double(), 3 * gradient, **CLOSE)


@pytest.mark.parametrize("r", [None, 3])
@pytest.mark.parametrize("scale", [1e-3, 200.0, 1e5])
def test_logits_however_far_apart(r, scale):
    logits, given = problem(7, r, scale)
    weights = sample_mixing_weights(60, M, 0.05, generator=generator(4))
    value = loss_of(logits, given, num_mixtures=60, alpha=0.05, generator=generator(4))
    value.backward()
    exact, (classes, *attention) = logits.detach().double().requires_grad_(), given
    expected = loss_of(exact, (classes, *(x.double() for x in attention)), mixing_weights=weights.double())
    expected.backward()
    torch.testing.assert_close(value.double(), expected, **CLOSE)
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("r", [None, 3])
@pytest.mark.parametrize("chunk", [1, 300 * 7 * 3])
def test_streaming_is_one_draw(monkeypatch, r, chunk):
    monkeypatch.setattr(mmlib._autograd, "CPU_CHUNK_ELEMENTS", chunk)
    monkeypatch.setattr(mmlib._autograd, "MIN_CHUNK_ROWS", 1)
    monkeypatch.setattr(mmlib.sampling, "CPU_BLOCK_ELEMENTS", 290 * M)
    (whole, given), (streamed, _), sources = problem(7, r), problem(7, r), (generator(8), generator(8))
    expected = loss_of(whole, given, mixing_weights=sample_mixing_weights(700, M, 0.3, generator=sources[0]))
    value = loss_of(streamed, given, num_mixtures=700, alpha=0.3, generator=sources[1])
    assert torch.equal(sources[0].get_state(), sources[1].get_state())
    torch.testing.assert_close(value, expected)
    (value + expected).backward()
    torch.testing.assert_close(streamed.grad, whole.grad)


@pytest.mark.parametrize("r", [None, 3])
def test_memory_of_any_kind_is_accepted(r):
    logits, (classes, *attention) = problem(5, r)
    weights = sample_mixing_weights(50, M, generator=generator(4))
    expected = loss_of(logits, (classes, *attention), mixing_weights=weights)
    strided = [x.repeat_interleave(2, dim=0)[::2] for x in attention]
    twisted = logits.mT.contiguous().mT if r else logits.T.contiguous().T
    value = loss_of(twisted, (classes.int(), *strided), mixing_weights=weights.T.contiguous().T)
    torch.testing.assert_close(value, expected)


def test_labels_in_single_precision_are_compiled_where_logits_alone_need_a_gradient(monkeypatch, path):
    calls = []
    ours = mmlib._cpu_kernels.cross_entropy_with_grad
    monkeypatch.setattr(mmlib._cpu_kernels, "cross_entropy_with_grad", lambda *arrays: calls.append(1) or ours(*arrays))
    logits, (classes, attention) = problem(5, 3)
    weights = sample_mixing_weights(50, M, generator=generator(4))
    mask, some = attention > 0.1, classes.masked_fill(classes == 1, -100)
    dense_mixed_cross_entropy(logits, classes, attention, mixing_weights=weights)
    dense_mixed_cross_entropy(logits, classes, attention, 50, mask=mask)
    mixed_cross_entropy(logits[:, 0].bfloat16(), classes, 50)
    mixed_cross_entropy(logits[:, 0], some, mixing_weights=weights, weight=torch.rand(5), label_smoothing=0.1)
    assert len(calls) == (4 if path == "numba" else 0)
    calls.clear()
    dense_mixed_cross_entropy(logits.double(), classes, attention.double(), mixing_weights=weights.double())
    dense_mixed_cross_entropy(logits, classes, attention.clone().requires_grad_(), mixing_weights=weights)
    dense_mixed_cross_entropy(logits, classes, attention, mixing_weights=weights.clone().requires_grad_())
    dense_mixed_cross_entropy(logits, F.one_hot(classes, 5).float(), attention, mixing_weights=weights)
    mixed_cross_entropy(logits[:, 0], classes, 50, reduction="none")
    assert not calls


class Products(TorchDispatchMode):
    """Counts matrix products, and derivatives of a softmax."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in ("mm", "addmm", "addmm_", "_log_softmax_backward_data")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("r", [None, 3])
@pytest.mark.parametrize("way", ["no_grad", "logits that ask for none"])
def test_without_gradients_no_product_of_theirs_is_computed(monkeypatch, path, r, way):
    """What is left is mixing, of three chunks. The compiled kernel overwrites mixed logits in any case.

    To leave that out would save 1 % of the call with 1000 mixtures of 128 examples and 100 classes.
    """
    monkeypatch.setattr(mmlib._autograd, "CPU_CHUNK_ELEMENTS", 128 * 5 * (r or 1))
    logits, given = problem(5, r)
    with Products() as with_gradients:
        expected = loss_of(logits, given, num_mixtures=300, generator=generator(4))
    logits = logits if way == "no_grad" else logits.detach()
    with torch.set_grad_enabled(way != "no_grad"), Products() as without:
        value = loss_of(logits, given, num_mixtures=300, generator=generator(4))
    assert not value.requires_grad
    assert torch.equal(value, expected)
    # Logits and what they weigh in sum, targets or masses. From a derivative by mixed logits one by logits is made.
    mixing = {("numba", None): 2, ("numba", 3): 2, ("torch", None): 2, ("torch", 3): 3}[path, r]
    assert without.count == 3 * mixing
    assert with_gradients.count == 3 * (mixing + (1 if path == "numba" else 2))


@pytest.mark.parametrize("r", [None, 3])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_so(r, value):
    """A run must notice that it diverged."""
    logits, given = problem(5, r)
    broken = logits.detach().clone()
    broken.view(M, -1)[7, -1] = value
    broken.requires_grad_()
    loss = loss_of(broken, given, num_mixtures=50)
    loss.backward()
    assert not bool(loss.isfinite())
    assert bool(broken.grad.isnan().any()) == (value != float("-inf"))


@pytest.mark.parametrize("r", [None, 3])
def test_weights_that_sum_to_1_only_nearly(r):
    """Labels are what their distributions are, to the digits of single precision."""
    logits, (classes, *attention) = problem(5, r)
    weights = 1.0009 * sample_mixing_weights(50, M, generator=generator(4))
    expected = loss_of(logits, (F.one_hot(classes, 5).float(), *attention), mixing_weights=weights)
    torch.testing.assert_close(loss_of(logits, (classes, *attention), mixing_weights=weights), expected)
