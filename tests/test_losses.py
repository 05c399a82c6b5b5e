"""The losses against the formulas as they read, value and gradient, on embeddings that are mixed one by one."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torchvision.transforms import v2

import mmlib._autograd
import mmlib.sampling
from mmlib import (
    DenseMultiMixLoss,
    MultiMixBCELoss,
    MultiMixLoss,
    dense_mixed_cross_entropy,
    mixed_binary_cross_entropy,
    mixed_cross_entropy,
    sample_mixing_weights,
)
from tests.reference import mixtures

M, R, D, C, N = 6, 4, 5, 3, 9
EXACT = {"rtol": 1e-10, "atol": 1e-12}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator(seed))


def leaf(value: torch.Tensor) -> torch.Tensor:
    return value.detach().clone().requires_grad_()


def affine_head() -> nn.Linear:
    head = nn.Linear(D, C, dtype=torch.float64)
    with torch.no_grad():
        head.weight.copy_(randn(C, D, seed=10))
        head.bias.copy_(randn(C, seed=11))
    return head


def make_weights(n: int = N, m: int = M) -> torch.Tensor:
    return sample_mixing_weights(n, m, generator=generator(1), dtype=torch.float64)


def make_targets(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Targets as the loss takes them, and as a distribution for every example and position, (m, r, c)."""
    if kind == "integers":
        classes = torch.arange(M) % C
        return classes, F.one_hot(classes, C).double()[:, None].expand(M, R, C)
    soft = randn(M, C, seed=2).softmax(-1) if kind == "soft" else randn(M, R, C, seed=3).softmax(-1)
    return soft, soft[:, None].expand(M, R, C) if kind == "soft" else soft


def make_attention(kind: str) -> torch.Tensor:
    attention = randn(M, R, seed=4).abs()
    if kind == "holes":
        attention[1] = 0  # an example that attends to nothing
        attention[:, 2] = 0  # a position that nobody attends to
        attention[0, 1] = 0
    return attention


def make_sparse_weights() -> torch.Tensor:
    """Pairs, as in mixup: some share no attended example with some positions."""
    weights = torch.zeros(N, M, dtype=torch.float64)
    for k in range(N):
        weights[k, k % M], weights[k, (k + 1) % M] = 0.3, 0.7
    return weights


@pytest.fixture(params=["integers", "soft"])
def targets(request):
    given, full = make_targets(request.param)
    return given, full[:, 0]


@pytest.fixture(params=["integers", "soft", "per position"])
def dense_targets(request):
    return make_targets(request.param)


def test_value_and_gradient_on_logits(targets):
    weights, logits, expected_logits = make_weights(), leaf(randn(M, C)), leaf(randn(M, C))
    loss = mixed_cross_entropy(logits, targets[0], mixing_weights=weights)
    expected = mixtures.multimix(expected_logits, lambda z: z, targets[1], weights)
    torch.testing.assert_close(loss, expected, **EXACT)
    (loss * 3).backward()
    (expected * 3).backward()
    torch.testing.assert_close(logits.grad, expected_logits.grad, **EXACT)


def test_gradients_reach_embeddings_and_head(targets):
    weights, head, expected_head = make_weights(), affine_head(), affine_head()
    embeddings, expected_embeddings = leaf(randn(M, D)), leaf(randn(M, D))
    mixed_cross_entropy(head(embeddings), targets[0], mixing_weights=weights).backward()
    mixtures.multimix(expected_embeddings, expected_head, targets[1], weights).backward()
    torch.testing.assert_close(embeddings.grad, expected_embeddings.grad, **EXACT)
    torch.testing.assert_close(head.weight.grad, expected_head.weight.grad, **EXACT)
    torch.testing.assert_close(head.bias.grad, expected_head.bias.grad, **EXACT)


@pytest.mark.parametrize(
    "wanted", ["targets", "mixing_weights", "targets mixing_weights", "logits targets mixing_weights"]
)
def test_gradients_of_targets_and_weights(wanted):
    def inputs():
        values = {"logits": randn(M, C), "targets": make_targets("soft")[0], "mixing_weights": make_weights()}
        return {name: leaf(value) if name in wanted.split() else value for name, value in values.items()}

    ours, theirs = inputs(), inputs()
    (mixed_cross_entropy(**ours) * 3).backward()
    (mixtures.multimix(theirs["logits"], lambda z: z, theirs["targets"], theirs["mixing_weights"]) * 3).backward()
    for name in ours:
        assert (ours[name].grad is not None) == (name in wanted.split())
        if ours[name].grad is not None:
            torch.testing.assert_close(ours[name].grad, theirs[name].grad, **EXACT)


@pytest.mark.parametrize("weights", [make_weights(), make_sparse_weights()], ids=["dirichlet", "pairs"])
@pytest.mark.parametrize("attention", ["everywhere", "holes"])
def test_dense_value_and_gradient_on_logits(dense_targets, attention, weights):
    attention = make_attention(attention)
    logits, expected_logits = leaf(randn(M, R, C)), leaf(randn(M, R, C))
    loss = dense_mixed_cross_entropy(logits, dense_targets[0], attention, mixing_weights=weights)
    expected = mixtures.dense_multimix(expected_logits.mT, lambda z: z, dense_targets[1], attention, weights)
    torch.testing.assert_close(loss, expected, **EXACT)
    (loss * 3).backward()
    (expected * 3).backward()
    torch.testing.assert_close(logits.grad, expected_logits.grad, **EXACT)


def test_dense_gradients_reach_features_and_head(dense_targets):
    weights, attention, head, expected_head = make_weights(), make_attention("holes"), affine_head(), affine_head()
    features, expected_features = leaf(randn(M, D, R)), leaf(randn(M, D, R))
    dense_mixed_cross_entropy(head(features.mT), dense_targets[0], attention, mixing_weights=weights).backward()
    mixtures.dense_multimix(expected_features, expected_head, dense_targets[1], attention, weights).backward()
    torch.testing.assert_close(features.grad, expected_features.grad, **EXACT)
    torch.testing.assert_close(head.weight.grad, expected_head.weight.grad, **EXACT)
    torch.testing.assert_close(head.bias.grad, expected_head.bias.grad, **EXACT)


@pytest.mark.parametrize("per", ["soft", "per position"])
@pytest.mark.parametrize(
    "wanted", ["attention", "targets", "mixing_weights", "logits attention", "logits targets attention mixing_weights"]
)
def test_dense_gradients_of_everything(wanted, per):
    def inputs():
        values = {
            "logits": randn(M, R, C),
            "targets": make_targets(per)[0],
            "attention": make_attention("everywhere"),
            "mixing_weights": make_weights(),
        }
        return {name: leaf(value) if name in wanted.split() else value for name, value in values.items()}

    ours, theirs = inputs(), inputs()
    (dense_mixed_cross_entropy(**ours) * 3).backward()
    full = theirs["targets"][:, None].expand(M, R, C) if per == "soft" else theirs["targets"]
    expected = mixtures.dense_multimix(
        theirs["logits"].mT, lambda z: z, full, theirs["attention"], theirs["mixing_weights"]
    )
    (expected * 3).backward()
    for name in ours:
        assert (ours[name].grad is not None) == (name in wanted.split())
        if ours[name].grad is not None:
            torch.testing.assert_close(ours[name].grad, theirs[name].grad, **EXACT)


def test_attention_nowhere_keeps_the_mixtures_own_weights():
    logits, classes, weights = randn(M, R, C), make_targets("integers")[0], make_weights()
    dense = dense_mixed_cross_entropy(logits, classes, torch.zeros(M, R, dtype=torch.float64), mixing_weights=weights)
    plain = [mixed_cross_entropy(logits[:, j], classes, mixing_weights=weights) for j in range(R)]
    torch.testing.assert_close(dense, torch.stack(plain).mean(), **EXACT)


def test_dense_with_one_position_is_plain():
    logits, classes, weights = randn(M, 1, C), make_targets("integers")[0], make_weights()
    dense = dense_mixed_cross_entropy(logits, classes, torch.ones(M, 1, dtype=torch.float64), mixing_weights=weights)
    torch.testing.assert_close(dense, mixed_cross_entropy(logits[:, 0], classes, mixing_weights=weights), **EXACT)


def test_dense_with_the_same_features_everywhere_and_uniform_attention_is_plain():
    """Every position then has the same mixture."""
    logits, classes, weights = leaf(randn(M, C)), make_targets("integers")[0], make_weights()
    everywhere, attention = logits[:, None].expand(M, R, C), torch.full((M, R), 1 / R, dtype=torch.float64)
    dense = dense_mixed_cross_entropy(everywhere, classes, attention, mixing_weights=weights)
    plain = mixed_cross_entropy(logits, classes, mixing_weights=weights)
    torch.testing.assert_close(dense, plain, **EXACT)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits) for loss in (dense, plain)), **EXACT)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixtures_of_one_example_each_have_torchs_cross_entropy(smoothing):
    logits, classes = leaf(randn(M, C)), torch.arange(M) % C
    one_hot, options = torch.eye(M, dtype=torch.float64), {"label_smoothing": smoothing}
    for order in (torch.arange(M), torch.tensor([3, 3, 0, 5, 1, 1, 2])):
        loss = mixed_cross_entropy(logits, classes, mixing_weights=one_hot[order], reduction="none", **options)
        expected = F.cross_entropy(logits[order], classes[order], reduction="none", **options)
        torch.testing.assert_close(loss, expected, **EXACT)
    mean = mixed_cross_entropy(logits, classes, mixing_weights=one_hot, **options)
    gradients = (torch.autograd.grad(loss, logits) for loss in (mean, F.cross_entropy(logits, classes, **options)))
    torch.testing.assert_close(*gradients, **EXACT)


@pytest.mark.parametrize("classes", [(0, 1), (2, 0), (1, 1)])
def test_two_examples_are_torchvisions_mixup_of_the_last_layers_embeddings(classes):
    """Manifold mixup where the layer is the last one: of two examples, each one's partner is the other."""
    embeddings, head, classes = randn(2, D), affine_head(), torch.tensor(classes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        probe, _ = v2.MixUp(alpha=1.0, num_classes=C)(torch.eye(2).view(2, 1, 1, 2), classes)
        torch.manual_seed(0)  # the same λ again
        mixed, targets = v2.MixUp(alpha=1.0, num_classes=C)(embeddings.view(2, D, 1, 1), classes)
    weights = probe.view(2, 2).double()
    assert 0.01 < weights[0, 0] < 0.99
    expected = F.cross_entropy(head(mixed.view(2, D)), targets.double(), reduction="none")
    loss = mixed_cross_entropy(head(embeddings), classes, mixing_weights=weights, reduction="none")
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)  # torchvision rounds λ to single precision


@pytest.mark.parametrize("alpha", [0.02, (0.5, 2.0)])
def test_drawn_weights_are_those_of_sample_weights(alpha):
    """... and the same Λ serves every position."""
    logits, (classes, full) = randn(M, R, C), make_targets("integers")
    attention = make_attention("holes")
    weights = sample_mixing_weights(N, M, alpha, generator=generator(5), dtype=torch.float64)
    ours = mixed_cross_entropy(logits[:, 0], classes, num_mixtures=N, alpha=alpha, generator=generator(5))
    expected = mixtures.multimix(logits[:, 0], lambda z: z, full[:, 0], weights)
    torch.testing.assert_close(ours, expected, **EXACT)
    ours = dense_mixed_cross_entropy(logits, classes, attention, num_mixtures=N, alpha=alpha, generator=generator(5))
    expected = mixtures.dense_multimix(logits.mT, lambda z: z, full, attention, weights)
    torch.testing.assert_close(ours, expected, **EXACT)


def test_drawing_leaves_the_global_generator_alone():
    before, source = torch.get_rng_state(), generator(5)
    first, second = (
        mixed_cross_entropy(randn(M, C), torch.arange(M) % C, num_mixtures=N, generator=source) for _ in "ab"
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert float(first) != float(second)


@pytest.mark.parametrize("alpha", [0.02, (0.5, 2.0)])
def test_criterion(alpha):
    logits, expected_logits, classes = leaf(randn(M, C)), leaf(randn(M, C)), torch.arange(M) % C
    weights = sample_mixing_weights(N, M, alpha, generator=generator(6), dtype=torch.float64)
    loss = MultiMixLoss(N, alpha, generator=generator(6))(logits, classes)
    expected = mixtures.multimix(expected_logits, lambda z: z, make_targets("integers")[1][:, 0], weights)
    torch.testing.assert_close(loss, expected, **EXACT)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(logits.grad, expected_logits.grad, **EXACT)


@pytest.mark.parametrize("spatial", [(R,), (2, R // 2)])
def test_dense_criterion_detaches_attention(dense_targets, spatial):
    head, weights = affine_head(), sample_mixing_weights(N, M, generator=generator(6), dtype=torch.float64)
    features = randn(M, D, R)
    features[0] = 0
    ours, detached, attached = leaf(features), leaf(features), leaf(features)
    loss = DenseMultiMixLoss(N, generator=generator(6))(ours.unflatten(2, spatial), head, dense_targets[0])
    attention = mixtures.gap_attention(features)
    expected = mixtures.dense_multimix(detached, head, dense_targets[1], attention, weights)
    torch.testing.assert_close(loss, expected, **EXACT)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, detached.grad, **EXACT)
    mixtures.dense_multimix(attached, head, dense_targets[1], mixtures.gap_attention(attached), weights).backward()
    assert not torch.allclose(ours.grad, attached.grad, rtol=1e-3)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_classes_may_have_the_shape_of_the_map(layout, training):
    features, classes = randn(M, D, 2, R // 2), torch.arange(M * R).view(M, 2, R // 2) % C
    features = features if layout == "channels_first" else features.movedim(1, 3)
    classes[0, 1] = 255
    criterion = DenseMultiMixLoss(N, ignore_index=255, layout=layout).train(training)
    given = {"mixing_weights": make_weights()}
    of_map = criterion(features, affine_head(), classes, **given)
    assert of_map == criterion(features, affine_head(), classes.flatten(1), **given)


class Cosine(nn.Linear):
    """A head that is not affine."""

    def forward(self, z):
        return F.linear(F.normalize(z, dim=-1), self.weight)


@pytest.mark.parametrize("head", [nn.Sequential(nn.Linear(D, C), nn.Tanh()).double(), Cosine(D, C).double()])
def test_a_head_that_is_not_affine_sees_the_mixtures(dense_targets, head):
    features, expected_features = leaf(randn(M, D, R)), leaf(randn(M, D, R))
    weights = sample_mixing_weights(N, M, 0.3, generator=generator(6), dtype=torch.float64)
    loss = DenseMultiMixLoss(N, 0.3, generator=generator(6), affine=False)(features, head, dense_targets[0])
    attention = mixtures.gap_attention(features.detach())
    expected = mixtures.dense_multimix(expected_features, head, dense_targets[1], attention, weights)
    torch.testing.assert_close(loss, expected, **EXACT)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(features.grad, expected_features.grad, **EXACT)


def everything(dense: bool) -> dict[str, torch.Tensor]:
    """Every input of a loss, all of them asking for gradients."""
    if not dense:
        return {
            "logits": leaf(randn(M, C)),
            "targets": leaf(make_targets("soft")[0]),
            "mixing_weights": leaf(make_weights()),
        }
    values = {"logits": randn(M, R, C), "targets": make_targets("per position")[0]}
    values |= {"attention": make_attention("everywhere"), "mixing_weights": make_weights()}
    return {name: leaf(value) for name, value in values.items()}


LOSSES = pytest.mark.parametrize(
    ("loss", "dense"), [(mixed_cross_entropy, False), (dense_mixed_cross_entropy, True)], ids=["plain", "dense"]
)


@LOSSES
def test_gradcheck(loss, dense):
    inputs = everything(dense)
    assert torch.autograd.gradcheck(lambda *values: loss(**dict(zip(inputs, values))), tuple(inputs.values()))
    for name in inputs:
        rest = {other: value.detach() for other, value in inputs.items() if other != name}
        assert torch.autograd.gradcheck(lambda value: loss(**rest, **{name: value}), inputs[name])  # noqa: B023


@LOSSES
@pytest.mark.parametrize("size", [1, 2 * R * C, 4 * R * C])
def test_chunks_do_not_change_the_result(monkeypatch, loss, dense, size):
    whole, chunked = everything(dense), everything(dense)
    expected = loss(**whole)
    expected.backward()
    monkeypatch.setattr(mmlib._autograd, "CPU_CHUNK_ELEMENTS", size)
    monkeypatch.setattr(mmlib._autograd, "MIN_CHUNK_ROWS", 1)
    value = loss(**chunked)
    value.backward()
    torch.testing.assert_close(value, expected, **EXACT)
    for name in whole:
        torch.testing.assert_close(chunked[name].grad, whole[name].grad, **EXACT)


@LOSSES
@pytest.mark.parametrize("alpha", [0.02, (0.5, 2.0)])
def test_streaming_is_one_draw(monkeypatch, loss, dense, alpha):
    monkeypatch.setattr(mmlib._autograd, "CPU_CHUNK_ELEMENTS", 3 * R * C)
    monkeypatch.setattr(mmlib._autograd, "MIN_CHUNK_ROWS", 1)
    monkeypatch.setattr(mmlib.sampling, "CPU_BLOCK_ELEMENTS", 4 * M)
    whole, streamed, sources = everything(dense), everything(dense), (generator(8), generator(8))
    del whole["mixing_weights"], streamed["mixing_weights"]
    weights = sample_mixing_weights(30, M, alpha, generator=sources[0], dtype=torch.float64)
    expected, value = (
        loss(**whole, mixing_weights=weights),
        loss(**streamed, num_mixtures=30, alpha=alpha, generator=sources[1]),
    )
    torch.testing.assert_close(value, expected, **EXACT)
    assert torch.equal(sources[0].get_state(), sources[1].get_state())
    expected.backward()
    value.backward()
    for name in whole:
        torch.testing.assert_close(streamed[name].grad, whole[name].grad, **EXACT)


class Recorder(TorchDispatchMode):
    """The operations that ran, and the number of elements of the largest tensor that any of them gave."""

    def __init__(self):
        super().__init__()
        self.elements, self.operations = 0, []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        self.operations.append(str(function))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_evaluation_holds_nothing_that_grows_with_pairs_of_examples():
    """As all logits of a validation set at once would show."""
    logits, labels = torch.randn(3000, 4), torch.randint(4, (3000,))
    with Recorder() as recorder:
        MultiMixLoss().eval()(logits, labels)
        MultiMixBCELoss().eval()(logits, logits > 0)
    assert recorder.elements == logits.numel()


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_losses_have_shapes_where_there_are_no_values(reduction):
    """As estimates of memory and of operations need them: on the device called meta."""
    try:
        torch._standard_gamma(torch.ones(1, device="meta"))
    except NotImplementedError:
        pytest.skip("this version of torch draws no gamma variates there")
    features, labels = torch.randn(8, 6, 3, device="meta"), torch.zeros(8, dtype=torch.long, device="meta")
    head = nn.Linear(6, 5, device="meta")
    for affine in (True, False):
        features.grad = None
        loss = DenseMultiMixLoss(10, reduction=reduction, affine=affine)(features.requires_grad_(), head, labels)
        loss.sum().backward()
        assert loss.shape == (() if reduction == "mean" else (10,))
        assert features.grad.shape == features.shape
    assert MultiMixLoss(10, reduction=reduction)(head(features.mean(2)), labels).device.type == "meta"


@LOSSES
def test_streaming_holds_nothing_that_grows_with_n(monkeypatch, loss, dense):
    monkeypatch.setattr(mmlib._autograd, "CPU_CHUNK_ELEMENTS", 20 * R * C)
    monkeypatch.setattr(mmlib._autograd, "MIN_CHUNK_ROWS", 1)
    monkeypatch.setattr(mmlib.sampling, "CPU_BLOCK_ELEMENTS", 50 * M)
    inputs = everything(dense)
    del inputs["mixing_weights"]
    with Recorder() as recorder:
        loss(**inputs, num_mixtures=2000).backward()
    assert recorder.elements <= 50 * M


@LOSSES
def test_targets_need_not_sum_to_one(loss, dense):
    """As in `F.cross_entropy`: the loss is linear in its targets."""
    ours, theirs = everything(dense), everything(dense)
    (loss(**ours | {"targets": 3 * ours["targets"]})).backward()
    (3 * loss(**theirs)).backward()
    for name in ours:
        torch.testing.assert_close(ours[name].grad, theirs[name].grad, **EXACT)


@LOSSES
def test_large_logits_do_not_overflow(loss, dense):
    inputs = everything(dense) | {"logits": leaf(everything(dense)["logits"] * 1e4)}
    value = loss(**inputs)
    value.backward()
    for result in (value, *(entry.grad for entry in inputs.values())):
        assert bool(result.isfinite().all())


@LOSSES
@pytest.mark.parametrize("scale", [1.0, 20.0, 1e3])
def test_drawn_mixtures_of_far_apart_logits_are_those_of_given_weights(loss, dense, scale):
    inputs = {name: value.detach().float() for name, value in everything(dense).items()}
    given = sample_mixing_weights(50, M, 0.05, generator=generator(2))
    del inputs["mixing_weights"]
    logits = [leaf(scale * inputs["logits"]) for _ in range(2)]
    values = (
        loss(**inputs | {"logits": logits[0]}, num_mixtures=50, alpha=0.05, generator=generator(2)),
        loss(**inputs | {"logits": logits[1]}, mixing_weights=given),
    )
    sum(values).backward()
    torch.testing.assert_close(*values)
    torch.testing.assert_close(logits[0].grad, logits[1].grad)
    assert bool(logits[0].grad.isfinite().all())


@LOSSES
def test_backward_twice_adds_up(loss, dense):
    once, twice = everything(dense), everything(dense)
    loss(**once).backward()
    value = loss(**twice)
    value.backward(retain_graph=True)
    value.backward()
    for name in once:
        torch.testing.assert_close(twice[name].grad, 2 * once[name].grad, **EXACT)


class Cut(torch.autograd.Function):
    """Passes a value on, and no gradient back."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return None


@LOSSES
def test_inputs_of_a_loss_that_no_gradient_reaches_get_none(loss, dense):
    inputs = everything(dense)
    Cut.apply(loss(**inputs)).backward()
    assert all(value.grad is None for value in inputs.values())


@LOSSES
def test_activation_checkpointing_changes_no_gradient(loss, dense):
    plain, recomputed = everything(dense), everything(dense)
    loss(**plain).backward()
    checkpoint(loss, **recomputed, use_reentrant=False).backward()
    for name in plain:
        torch.testing.assert_close(recomputed[name].grad, plain[name].grad, **EXACT)


@LOSSES
def test_without_gradients(loss, dense):
    inputs = everything(dense)
    with torch.no_grad(), Recorder() as recorder:
        value = loss(**inputs)
    assert not value.requires_grad
    assert not any("addmm" in operation for operation in recorder.operations)  # none was computed
    torch.testing.assert_close(value, loss(**inputs).detach(), **EXACT)


@LOSSES
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_summed_in_single(loss, dense, dtype):
    inputs = {name: value.detach().float() for name, value in everything(dense).items()}
    half = leaf(inputs.pop("logits").to(dtype) * 30)
    single = leaf(half.float())
    expected = loss(single, **inputs)
    expected.backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(half, **inputs)
    value.backward()
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)
    assert torch.equal(half.grad, single.grad.to(dtype))


@pytest.mark.parametrize("weights", [make_weights(), make_sparse_weights()], ids=["dirichlet", "pairs"])
def test_no_attention_gives_finite_gradients(weights):
    inputs = everything(dense=True) | {
        "attention": leaf(make_attention("holes").float()),
        "mixing_weights": leaf(weights),
    }
    dense_mixed_cross_entropy(**inputs).backward()
    for value in inputs.values():
        assert bool(value.grad.isfinite().all())
    assert bool((inputs["attention"].grad[:, 2] == 0).all())


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_compiled_step_gives_the_same():
    head, features, classes = affine_head().float(), randn(M, D, R).float(), torch.arange(M) % C

    def step(features, source):
        return DenseMultiMixLoss(N, generator=source)(features * 2, head, classes) + MultiMixLoss(N, generator=source)(
            head(features.mean(2)), classes
        )

    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    plain, compiled = leaf(features), leaf(features)
    expected, value = step(plain, generator(3)), torch.compile(step, backend=backend)(compiled, generator(3))
    assert 0 < len(graphs) < 10  # the losses themselves are left alone
    torch.testing.assert_close(value, expected)
    expected.backward()
    value.backward()
    torch.testing.assert_close(compiled.grad, plain.grad)


class HundredMixtures(MultiMixLoss):
    """A subclass with a parameter that is no attribute."""

    def __init__(self, name: str, alpha: float) -> None:
        super().__init__(100, alpha)


def test_criteria_say_what_they_are():
    drawn, reduced = "num_mixtures=10, alpha=1.0, alpha_is_total=False", "label_smoothing=0.0, reduction='mean'"
    assert str(MultiMixLoss(10, 1.0)) == f"MultiMixLoss({drawn}, ignore_index=-100, {reduced})"
    weighted = MultiMixBCELoss(10, 1.0, weight=torch.ones(1000), generator=torch.Generator())
    assert str(weighted) == str(weighted.to("meta")) == f"MultiMixBCELoss({drawn}, reduction='mean')"
    dense = "layout='channels_last', attention='cam', detach_attention=True"
    assert str(DenseMultiMixLoss(layout="channels_last", attention="cam")).endswith(f"{reduced}, {dense})")
    assert str(HundredMixtures(name="mine", alpha=1.0)) == "HundredMixtures(alpha=1.0)"
    with pytest.raises(ValueError, match="num_mixtures must be an integer >= 1, got 0"):
        MultiMixLoss(0)
    with pytest.raises(ValueError, match="alpha"):
        DenseMultiMixLoss(10, alpha=-1.0)
    with pytest.raises(ValueError, match="reduction must be 'mean', 'sum' or 'none', got 'average'"):
        MultiMixLoss(reduction="average")
    with pytest.raises(ValueError, match="label_smoothing must be a number from 0 to 1, got 2"):
        MultiMixLoss(label_smoothing=2)


CLASSES = torch.arange(M) % C


@pytest.mark.parametrize(("total", "own"), [(False, 1 / (1 + M * 0.5)), (True, 1 / (1 + 0.5))])
def test_expected_gradient_of_an_example_keeps_its_own_label_by_the_concentration(total, own):
    # With equal logits p is the same for every mixture, and the Dirichlet's moments give the gradient exactly.
    logits = torch.zeros(M, C, dtype=torch.double, requires_grad=True)
    criterion = MultiMixLoss(400_000, 0.5, generator=torch.Generator().manual_seed(0), alpha_is_total=total)
    (gradient,) = torch.autograd.grad(criterion(logits, CLASSES), logits)
    y = torch.nn.functional.one_hot(CLASSES, C).double()
    expected = (1 / C - own * y - (1 - own) * y.mean(0)) / M
    torch.testing.assert_close(gradient, expected, rtol=0, atol=2e-3)  # 4 standard deviations at most
    assert (y - y.mean(0)).abs().max() * own / M > 0.02  # what the example's own label contributes


PLAIN_ERRORS = [
    ({"mixing_weights": make_weights(), "num_mixtures": 3}, r"mixing_weights must have shape \(3, 6\), got \(9, 6\)"),
    ({"mixing_weights": make_weights(m=M + 1)}, r"mixing_weights must have shape \(n, 6\), got \(9, 7\)"),
    ({"mixing_weights": make_weights()[0]}, r"mixing_weights must have shape \(n, 6\), got \(6,\)"),
    ({"mixing_weights": make_weights() * 2}, "rows that sum to 1, got one that is 1 off"),
    ({"mixing_weights": make_weights() * torch.nan}, "rows that sum to 1"),
    ({"targets": CLASSES[1:]}, r"targets must have shape \(6,\) integers or \(6, 3\), got \(5,\)"),
    ({"targets": CLASSES.double()}, r"targets must have shape .* got \(6,\) torch.float64"),
    ({"targets": CLASSES > 0}, r"targets must have shape .* got \(6,\) torch.bool"),
    ({"targets": randn(M, C + 1)}, r"targets must have shape .* got \(6, 4\)"),
    ({"targets": CLASSES + 1}, r"targets must be classes 0 to 2 or ignore_index \(-100\), got 3"),
    ({"targets": torch.tensor([0, 1, -100, C, 1, 2])}, r"targets must be classes 0 to 2 or .*, got 3"),
    ({"targets": CLASSES - 1}, r"targets must be classes 0 to 2 or ignore_index \(-100\), got -1"),
    ({"logits": randn(M, 1)}, r"logits must have at least 2 classes, got \(6, 1\); MultiMixBCELoss takes a single one"),
    (
        {"logits": randn(M, 2, C)},
        r"logits must have shape \(m, c\), got \(6, 2, 3\); dense_mixed_cross_entropy takes those of a map",
    ),
    ({"logits": randn(M)}, r"logits must have shape \(m, c\), got \(6,\)"),
    ({"logits": randn(0, C)}, r"logits must have at least one example, got shape \(0, 3\)"),
    ({"mixing_weights": torch.tensor([[2.0, -1, 0, 0, 0, 0]])}, "mixing_weights must be a finite number >= -0.001"),
    ({"weight": torch.ones(C + 1)}, r"weight must have shape \(3,\), got \(4,\)"),
    ({"weight": -torch.ones(C)}, "weight must be a finite number >= 0, got -1"),
    ({"num_mixtures": 0}, "num_mixtures must be an integer >= 1, got 0"),
    ({"alpha": (2.0, 1.0)}, r"alpha .*\(2.0, 1.0\)"),
]


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize(("arguments", "words"), PLAIN_ERRORS)
def test_what_does_not_fit_is_refused(arguments, words, reduction):
    given = {"logits": randn(M, C), "targets": CLASSES, "reduction": reduction} | arguments
    with pytest.raises(ValueError, match=words):
        inspect.unwrap(mixed_cross_entropy)(**given)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"logits": randn(M, C).long()}, "logits must be a floating-point tensor, got torch.int64"),
        ({"logits": randn(M, C).numpy()}, "logits must be a tensor, got ndarray"),
        ({"logits": torch.ones(M, C, dtype=torch.complex64)}, "logits must be a floating-point tensor, got"),
        ({"targets": CLASSES.tolist()}, "targets must be a tensor, got list"),
        ({"mixing_weights": torch.eye(M).long()}, "mixing_weights must be a floating-point tensor, got torch.int64"),
        ({"mixing_weights": [[1.0] * M]}, "mixing_weights must be a tensor, got list"),
        ({"ignore_index": None}, "ignore_index must be int, got None"),
        ({"ignore_index": "-1"}, "ignore_index must be int, got '-1'"),
        ({"ignore_index": 1.5}, "ignore_index must be int, got 1.5"),
        ({"generator": 0}, "generator must be Generator or None, got 0"),
        ({"weight": [1.0] * C}, "weight must be a tensor, got list"),
        ({"alpha_is_total": "yes"}, "alpha_is_total must be bool, got 'yes'"),
    ],
)
def test_wrong_types_are_named(arguments, words, unchecked):
    with pytest.raises(TypeError, match=words):
        mixed_cross_entropy(**{"logits": randn(M, C), "targets": CLASSES} | arguments)


@pytest.mark.parametrize("criterion", [MultiMixLoss(10), MultiMixBCELoss(10)])
@pytest.mark.parametrize("training", [True, False])
def test_criteria_take_logits_of_examples_alone(criterion, training, unchecked):
    criterion.train(training)
    of_map, one = (
        r"dense_mixed_cross_entropy takes those of a map, \(m, r, c\)",
        r"give one logit per example as \(m, 1\)",
    )
    for logits, hint in ((randn(M, C, 2), of_map), (randn(M, C, 2, 2), of_map), (randn(M), one)):
        with pytest.raises(ValueError, match=rf"^logits must have shape \(m, c\), got \(6,.*; {hint}$"):
            criterion(logits, CLASSES)
    with pytest.raises(ValueError, match="logits must have at least one example"):
        criterion(randn(0, C), CLASSES[:0])
    with pytest.raises(ValueError, match=r"mixing_weights must have shape \(n, 6\), got \(5, 5\)"):
        criterion(randn(M, C), torch.ones(M, C), mixing_weights=torch.eye(5))


@pytest.mark.parametrize(
    ("features", "head", "arguments", "words"),
    [
        (randn(M, 5, R), randn(M, C), {}, "head must be a function .* got Tensor"),
        (randn(M, 5, R).long(), nn.Linear(5, C), {}, "features must be a floating-point tensor, got torch.int64"),
        (randn(M, 5, R), nn.Linear(5, C), {}, "features must have the head's dtype, torch.float32, got torch.float64"),
        (randn(M, 5, 0), nn.Linear(5, C), {}, r"shape \(m, d, r\) or \(m, d, h, w\), no size 0, got \(6, 5, 0\)"),
        (randn(0, 5, R), nn.Linear(5, C), {}, r"features must have shape \(m, d, r\) .* got \(0, 5, 4\)"),
        (randn(M, 5, R), nn.Linear(5, C).double(), {"mask": [True]}, "mask must be a tensor, got list"),
        (randn(M, 5, R), nn.Linear(5, C).double(), {"mask": torch.ones(M, R)}, "mask must be a boolean tensor"),
        (
            randn(M, 5, R),
            nn.Linear(5, C).double(),
            {"query": randn(M, 6)},
            r"query must have shape \(6, 5\), got \(6, 6\)",
        ),
        (
            randn(M, 5, R),
            nn.Linear(5, C).double(),
            {"query": randn(2, 5)},
            r"query must have shape \(6, 5\), got \(2, 5\)",
        ),
    ],
)
def test_what_the_dense_criterion_does_not_take(features, head, arguments, words, unchecked):
    with pytest.raises((TypeError, ValueError), match=words):
        DenseMultiMixLoss(10)(features, head, CLASSES[: len(features)], **arguments)


def test_a_thousand_mixtures_of_the_published_concentrations_are_drawn_by_default():
    for criterion in (MultiMixLoss(), DenseMultiMixLoss(), MultiMixBCELoss()):
        assert (criterion.num_mixtures, criterion.alpha, criterion.alpha_is_total) == (1000, (0.5, 2.0), False)
    for loss in (mixed_cross_entropy, dense_mixed_cross_entropy, mixed_binary_cross_entropy):
        options = inspect.signature(loss).parameters
        assert (options["alpha"].default, options["alpha_is_total"].default) == ((0.5, 2.0), False)
    assert len(mixed_cross_entropy(randn(M, C), CLASSES, reduction="none")) == 1000


def test_attention_and_options_of_another_kind_are_refused(unchecked):
    head = nn.Linear(5, C).double()
    with pytest.raises(ValueError, match=r"attention must have shape \(6, 4\), got \(6, 5, 4\)"):
        DenseMultiMixLoss(10, attention=lambda features, query, mask: features)(randn(M, 5, R), head, CLASSES)
    with pytest.raises(ValueError, match=r"^attention must be 'gap' or 'cam', got 'max'"):
        DenseMultiMixLoss(attention="max")
    with pytest.raises(TypeError, match=r"^targets must be a tensor, got list"):
        DenseMultiMixLoss(10)(randn(M, 5, R), head, [0] * M)
    for option in ("detach_attention", "affine"):
        with pytest.raises(TypeError, match=f"^{option} must be bool.*, got 'no'"):
            DenseMultiMixLoss(**{option: "no"})


@pytest.mark.parametrize(
    ("options", "targets", "words"),
    [
        ({"pos_weight": torch.ones(2)}, torch.ones(M, C), r"pos_weight must have shape \(3,\), got \(2,\)"),
        ({"pos_weight": -torch.ones(C)}, torch.ones(M, C), "pos_weight must be a finite number >= 0, got -1"),
        ({}, torch.full((M, C), 2.0), "targets must be a number from 0 to 1, got 2"),
        ({}, torch.full((M, C), -100), "targets must be a number from 0 to 1, got -100"),
        ({}, [[1.0] * C] * M, "targets must be a tensor, got list"),
    ],
)
def test_what_binary_cross_entropy_does_not_take(options, targets, words, unchecked):
    for training in (True, False):
        with pytest.raises((TypeError, ValueError), match=words):
            MultiMixBCELoss(10, **options).train(training)(randn(M, C), targets)
    with pytest.raises(TypeError, match="targets must be a tensor, got list"):  # labels of one class may lack an axis
        MultiMixBCELoss(10)(randn(M, 1), [1.0] * M)
    with pytest.raises(ValueError, match=r"logits must have shape \(m, c\), got \(6,\)"):
        mixed_binary_cross_entropy(randn(M), torch.ones(M))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"attention": make_attention("holes").T}, r"attention must have shape \(6, 4\), got \(4, 6\)"),
        ({"attention": torch.ones(M, R).long()}, r"attention must be a floating-point tensor, got torch\.int64"),
        ({"mixing_weights": make_weights(m=M + 1)}, r"mixing_weights must have shape \(n, 6\), got \(9, 7\)"),
        ({"targets": randn(M, R + 1, C)}, r"or \(6, 3\), \(6, 4\) integers or \(6, 4, 3\), got \(6, 5, 3\)"),
        ({"targets": CLASSES + 1}, r"targets must be classes 0 to 2 or ignore_index"),
        ({"mask": torch.ones(M, C).bool()}, r"mask must have shape \(6, 4\), got \(6, 3\)"),
        ({"logits": randn(M, 0, C)}, r"logits must have shape \(m, r, c\), each at least 1, got \(6, 0, 3\)"),
        ({"logits": randn(0, R, C)}, r"logits must have at least one example, got shape \(0, 4, 3\)"),
        ({"logits": randn(M, C, 2, 2)}, r"\(6, 3, 2, 2\); for a map \(m, c, h, w\) give logits.flatten\(2\).mT$"),
    ],
)
def test_what_does_not_fit_densely_is_refused(arguments, words):
    fitting = {"logits": randn(M, R, C), "targets": CLASSES, "attention": make_attention("holes")}
    with pytest.raises((TypeError, ValueError), match=words):
        inspect.unwrap(dense_mixed_cross_entropy)(**fitting | arguments)
