"""Attacks against captum's, a closed form, and what an attack that is not masked must do."""

from functools import partial

import mpmath
import pytest
import torch
from captum.robust import FGSM, PGD
from torch import nn

from mmlib.experiments import data
from mmlib.experiments.data.split import Split
from mmlib.experiments.evaluation.predictions import predict
from mmlib.experiments.evaluation.robustness import _log_odds_against, adversarial_error, fgsm, pgd
from mmlib.experiments.training.config import Config
from mmlib.experiments.training.trainer import train
from mmlib.metrics import accuracy


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def network():
    """Smooth, so that no gradient is zero; batch normalisation and dropout differ between the two modes."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Dropout(), nn.Linear(64, 5)
    network = nn.Sequential(*layers).double()
    network(torch.rand(50, 3, 6, 6, generator=generator(), dtype=torch.double))
    return network.eval()


@pytest.fixture
def batch():
    images = torch.rand(20, 3, 6, 6, generator=generator(1), dtype=torch.double)
    images[:5].round_()  # black and white pixels, which clipping to [0, 1] holds back
    return images, torch.arange(20) % 5


LOSS = nn.CrossEntropyLoss(reduction="none")


@pytest.mark.filterwarnings("ignore:Input Tensor")
@pytest.mark.parametrize("epsilon", [8 / 255, 0.3])
def test_fgsm_is_captums(network, batch, epsilon):
    attack = FGSM(network, LOSS, lower_bound=0, upper_bound=1)
    attack.zero_thresh = 0
    expected = attack.perturb(batch[0], epsilon, batch[1])
    torch.testing.assert_close(fgsm(network, *batch, epsilon), expected, rtol=0, atol=1e-10)


@pytest.mark.filterwarnings("ignore:Input Tensor")
@pytest.mark.parametrize(("epsilon", "step", "steps"), [(4 / 255, 2 / 255, 10), (0.3, 0.05, 1), (0.3, 0.05, 15)])
def test_pgd_is_captums(network, batch, epsilon, step, steps):
    attack = PGD(network, LOSS, lower_bound=0, upper_bound=1)
    attack.fgsm.zero_thresh = 0
    expected = attack.perturb(batch[0], epsilon, step, steps, batch[1])
    torch.testing.assert_close(pgd(network, *batch, epsilon, step, steps), expected, rtol=0, atol=1e-10)


def test_defaults_are_the_published_settings(network, batch):
    torch.testing.assert_close(fgsm(network, *batch), fgsm(network, *batch, epsilon=8 / 255), rtol=0, atol=0)
    expected = pgd(network, *batch, 4 / 255, 2 / 255, 10)
    torch.testing.assert_close(pgd(network, *batch), expected, rtol=0, atol=0)


@pytest.mark.parametrize("attack", [fgsm, partial(pgd, steps=30)])
def test_two_classes_of_a_linear_classifier_are_solved_exactly(attack):
    """The gap w·x of two logits falls fastest along -sign(w), whatever the step: the corner of the clipped ball."""
    w = torch.randn(12, generator=generator(), dtype=torch.double)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(12, 2, bias=False)).double()
    classifier[1].weight.data = torch.stack([w, -w])
    images = torch.rand(8, 3, 2, 2, generator=generator(1), dtype=torch.double)
    images[0, 0, 0, 0], images[1, 0, 0, 0] = 0.0, 1.0
    labels = torch.arange(8) % 2
    direction = torch.where(labels == 0, -1.0, 1.0).view(-1, 1, 1, 1) * w.sign().view(1, 3, 2, 2)
    expected = (images + 0.1 * direction).clamp(0, 1)
    torch.testing.assert_close(attack(classifier, images, labels, epsilon=0.1), expected, rtol=0, atol=1e-12)


def test_random_start_is_uniform_in_the_ball_and_the_generators(network, batch):
    images = torch.full((20, 3, 6, 6), 0.5, dtype=torch.double)
    start = pgd(network, images, batch[1], 0.1, 0.0, 1, generator=generator()) - 0.5
    assert start.abs().max() <= 0.1 + 1e-12
    assert start.std() == pytest.approx(0.1 / 3**0.5, rel=0.05)
    assert start.mean() == pytest.approx(0, abs=0.005)
    again = pgd(network, images, batch[1], 0.1, 0.0, 1, generator=generator()) - 0.5
    assert torch.equal(start, again)
    seen = []
    network.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    edge = pgd(network, batch[0], batch[1], 0.3, 0.1, 2, generator=generator())
    assert all(0 <= image.min() <= image.max() <= 1 for image in [*seen, edge])
    assert (edge - batch[0]).abs().max() <= 0.3 + 1e-12


@pytest.mark.parametrize("training", [True, False])
def test_classifier_is_left_as_it_was(network, batch, training):
    network.train(training)
    network[0].weight.grad = torch.ones_like(network[0].weight)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = batch[0].clone()
    with torch.no_grad():
        attacked = pgd(network, *batch)
    adversarial_error(network, Split((batch[0] * 255).byte(), batch[1]), fgsm)
    assert network.training is training
    torch.testing.assert_close(dict(network.state_dict()), before, rtol=0, atol=0)
    assert network[0].weight.grad.eq(1).all()
    assert all(parameter.grad is None for parameter in list(network.parameters())[1:])
    assert torch.equal(batch[0], images)
    assert not attacked.requires_grad
    torch.testing.assert_close(attacked, pgd(network.eval(), *batch), rtol=0, atol=0)


def exact_gradient(network: nn.Module, image: torch.Tensor, label: int) -> torch.Tensor:
    """The cross-entropy's gradient p - y times the Jacobian of the logits, with fifty digits and any exponent."""
    jacobian = torch.autograd.functional.jacobian(network, image[None])[0].flatten(1).numpy()
    with mpmath.workdps(50):
        exponentials = [mpmath.exp(z) for z in network(image[None])[0].tolist()]
        p = [e / sum(exponentials) for e in exponentials]
        # 1 - p_y as the sum of the others, which is the same and loses no digits.
        p[label] = -sum(p[:label] + p[label + 1 :])
        sums = [sum(w * mpmath.mpf(float(x)) for w, x in zip(p, row)) for row in jacobian.T]
        largest = max(abs(x) for x in sums)
        return torch.tensor([float(x / largest) for x in sums], dtype=torch.double).view(image.shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("margin", [1, 30, 100, 500, 2000])
@pytest.mark.parametrize("attack", [fgsm, partial(pgd, steps=1)])
def test_sure_classifiers_are_attacked_in_the_exact_direction(network, batch, attack, margin, dtype):
    """Right by so many logits; from some 40 on, p - y rounds to zero and its gradient with it."""
    images = batch[0][5:9].float().double()
    # Weights that float32 holds, so that both precisions are of one network.
    network.float().double()
    logits = network(images)
    top = logits.topk(2).values
    network[-1].weight.data *= margin / (top[:, 0] - top[:, 1]).median()
    network[-1].bias.data *= margin / (top[:, 0] - top[:, 1]).median()
    network.float().double()
    labels = logits.argmax(dim=1)
    exact = torch.stack([exact_gradient(network, image, int(label)) for image, label in zip(images, labels)])
    moved = attack(network.to(dtype), images.to(dtype), labels, epsilon=0.01) - images
    clear = exact.abs() > 1e-4  # of the steepest pixel: what float32 can tell from zero
    assert clear.double().mean() > 0.98
    assert torch.equal(moved.sign()[clear], exact.sign()[clear])


def test_the_loss_is_the_inverse_softplus_of_cross_entropy():
    """So its gradient is cross-entropy's divided by 1 - p_y: the same direction in the space of logits."""
    logits = torch.randn(50, 7, generator=generator(), dtype=torch.double, requires_grad=True)
    labels = torch.arange(50) % 7
    values = _log_odds_against(logits, labels)
    entropies = nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(nn.functional.softplus(values), entropies)
    (ours,) = torch.autograd.grad(values.sum(), logits)
    (theirs,) = torch.autograd.grad(entropies.sum(), logits)
    wrong = 1 - logits.softmax(dim=1).gather(1, labels[:, None])
    torch.testing.assert_close(ours * wrong, theirs)


@pytest.mark.parametrize("labels_dtype", [torch.uint8, torch.int32, torch.int64])
def test_attacks_work_in_inference_mode(network, batch, labels_dtype):
    expected = pgd(network, *batch)
    with torch.inference_mode():
        images, labels = batch[0] * 1.0, batch[1].to(labels_dtype)
        assert images.is_inference()
        assert torch.equal(pgd(network, images, labels), expected)
        assert adversarial_error(network, Split((images * 255).byte(), labels.long()), fgsm) > 0


def test_networks_made_in_inference_mode_are_attacked(batch):
    def make() -> nn.Module:
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5)
        return nn.Sequential(*layers).double()

    with torch.inference_mode():
        network = make()
        assert all(x.is_inference() for x in (*network.parameters(), *network.buffers()))
        expected = pgd(make(), *batch)
    assert torch.equal(pgd(network, *batch), expected)
    assert torch.equal(expected, pgd(make(), *batch))


WRONG = [
    ({"images": lambda x: x[:0]}, ValueError, r"^images must have at least one example, got shape \(0, 3, 6, 6\)$"),
    (
        {"images": lambda x: (255 * x).byte()},
        TypeError,
        r"^images must be a floating-point tensor, got torch\.uint8$",
    ),
    ({"images": lambda x: x[0]}, ValueError, r"^images must have shape \(m, channels, h, w\), got \(3, 6, 6\)$"),
    ({"images": lambda x: x.numpy()}, TypeError, "^images must be a tensor, got ndarray$"),
    ({"labels": lambda y: y[:, None]}, ValueError, r"^labels must have shape \(20,\), got \(20, 1\)$"),
    ({"labels": lambda y: y[:3]}, ValueError, r"^labels must have shape \(20,\), got \(3,\)$"),
    ({"labels": lambda y: y.double()}, TypeError, r"^labels must be an integer tensor, got torch\.float64$"),
    ({"labels": lambda y: y + 1}, ValueError, "^labels must be from 0 to 4 for 5 classes, got 5$"),
    ({"labels": lambda y: y - 1}, ValueError, "^labels must be from 0 to 4 for 5 classes, got -1$"),
]


@pytest.mark.parametrize("attack", [fgsm, pgd])
@pytest.mark.parametrize(("changed", "error", "message"), WRONG)
def test_batches_of_another_kind_are_refused(network, batch, unchecked, attack, changed, error, message):
    images, labels = (changed.get(name, lambda x: x)(x) for name, x in zip(("images", "labels"), batch))
    with pytest.raises(error, match=message):
        attack(network, images, labels)


def test_attacks_keep_nothing_for_gradients_of_parameters(network, batch):
    """The input of a convolution is needed for the gradient of its weights alone."""

    def saved(call) -> int:
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            call()
        return sum(sizes)

    network[0].weight.requires_grad_(False)
    before = [parameter.requires_grad for parameter in network.parameters()]
    images = batch[0].clone().requires_grad_()
    training = saved(lambda: nn.functional.cross_entropy(network(images), batch[1]))
    assert saved(lambda: fgsm(network, *batch)) < training
    assert [parameter.requires_grad for parameter in network.parameters()] == before


@pytest.mark.parametrize(
    ("images", "got"), [(torch.tensor([-0.1, 1.0]), "-0.1 to 1"), (torch.tensor([0.0, 255.0]), "0 to 255")]
)
def test_images_outside_the_range_are_refused(network, images, got):
    images = images.double().repeat(54).view(1, 3, 6, 6)
    for attack in (fgsm, pgd):
        with pytest.raises(ValueError, match=rf"images must be in \[0, 1\], got values from {got}"):
            attack(network, images, torch.tensor([0]))
    with pytest.raises(ValueError, match=r"images must be in \[0, 1\], got values from nan to nan"):
        fgsm(network, images * torch.nan, torch.tensor([0]))


def test_low_precision_classifier_is_attacked_within_the_ball(network, batch):
    images = batch[0].float()
    attacked = pgd(network.bfloat16(), images, batch[1])
    assert attacked.dtype == torch.float32
    assert (attacked - images).abs().max() <= 4 / 255 + 1e-6
    split = Split((batch[0] * 255).byte(), batch[1])
    assert adversarial_error(network, split, lambda classifier, images, labels: images) == pytest.approx(
        100 - accuracy(network((split.images / 255).bfloat16()), split.labels).item()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": -0.1}, "epsilon"),
        ({"step": float("nan")}, "step"),
        ({"steps": 0}, "steps"),
    ],
)
def test_impossible_attacks_are_refused(network, batch, options, message):
    with pytest.raises(ValueError, match=message):
        pgd(network, *batch, **options)


@pytest.fixture(scope="module")
def trained():
    digits = data.load("digits")
    return train(Config(method="erm", epochs=40), digits).classifier, digits.test.first_per_class(10)


@pytest.mark.slow
def test_no_attack_is_the_clean_error_whatever_the_batches(trained):
    classifier, split = trained
    clean = 100 - accuracy(predict(classifier, split).logits, split.labels).item()
    for size in (7, 100):
        error = adversarial_error(classifier, split, partial(pgd, epsilon=0.0), batch_size=size)
        assert error == pytest.approx(clean)
    assert adversarial_error(classifier, split, fgsm, batch_size=7) == adversarial_error(classifier, split, fgsm)


def test_gradients_are_not_masked(trained):
    """What a masked gradient would show (Athalye et al., ICML 2018): none of it is there."""
    classifier, split = trained
    by_epsilon = [
        adversarial_error(classifier, split, partial(pgd, epsilon=k / 255, step=k / 510)) for k in (0, 4, 16, 32, 128)
    ]
    assert by_epsilon == sorted(by_epsilon)
    assert by_epsilon[0] < 30
    assert by_epsilon[-1] == 100
    by_steps = [
        adversarial_error(classifier, split, partial(pgd, epsilon=32 / 255, step=4 / 255, steps=steps))
        for steps in (1, 2, 4, 16)
    ]
    assert by_steps == sorted(by_steps)
    assert by_steps[-1] > by_steps[0]
    epsilon = 24 / 255
    noisy = adversarial_error(
        classifier, split, partial(pgd, epsilon=epsilon, step=0.0, steps=1, generator=generator())
    )
    one = adversarial_error(classifier, split, partial(fgsm, epsilon=epsilon))
    many = adversarial_error(classifier, split, partial(pgd, epsilon=epsilon, step=epsilon / 4))
    assert noisy < one <= many


def test_first_of_each_class_are_a_balanced_subset():
    labels = torch.tensor([2, 0, 0, 1, 2, 0, 1, 2])
    split = Split(torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1), labels)
    chosen = split.first_per_class(2)
    assert chosen.images.flatten().tolist() == [1, 2, 3, 6, 0, 4]
    assert chosen.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(split.first_per_class(3)) == 8
