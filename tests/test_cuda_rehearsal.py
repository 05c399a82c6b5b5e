"""The GPU's path, rehearsed on the processor: every method, training, evaluation, run folders, criteria, detectors.

The device is pretended (`tests.pretend_cuda`). Its random numbers are the processor's, so what is computed there is
what torch's own operations compute here.
"""

import copy
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils._pytree import tree_leaves

from mmbook import detection, scenes
from mmlib import DenseMultiMixLoss, MultiMixBCELoss, MultiMixLoss, _backend, metrics, transforms
from mmlib.experiments import data, evaluation, runs, training
from mmlib.experiments.methods import METHODS
from mmlib.experiments.methods.base import option_names
from mmlib.experiments.training import Config, Trainer
from mmlib.experiments.training.trainer import train_epoch
from mmlib.recipe import MultiMixRecipe
from tests.helpers import MOST_LAUNCHES
from tests.pretend_cuda import on_card, pretend

NO_WAITS = ["erm", "mixup", "cutmix", "multimix", "dense_multimix", "multimix_distill", "dense_multimix_distill"]
PRECISIONS = ["float32", "bfloat16"]


@pytest.fixture
def card():
    with pretend() as card:
        yield card


@pytest.fixture(autouse=True)
def torch_alone(monkeypatch):
    """No compiled code of the processor, so that both devices compute alike."""
    monkeypatch.setattr(_backend, "USE_NUMBA", False)


def split(count, seed, classes=4):
    generator = torch.Generator("cpu").manual_seed(seed)
    images = torch.randint(256, (count, 8, 8, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
    return data.Split(images, torch.arange(count) % classes)


@pytest.fixture
def dataset():
    """Noise: what it shows does not matter here."""
    return data.Dataset("noise", split(12, 0), split(8, 1), split(20, 2), tuple("abcd"), 4, padding=1, flip=True)


def config(method="erm", **overrides):
    options = {"num_mixtures": 50} if "num_mixtures" in option_names(METHODS[method]) else {}
    return Config(**{"dataset": "noise", "method": method, "options": options, "epochs": 2, **overrides})


def weights(trainer):
    return {name: value.cpu() for name, value in trainer.classifier.state_dict().items()}


def assert_equal(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


# Methods


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", METHODS)
def test_a_step_of_every_method(card, dataset, name, precision):
    trainer = Trainer(config(name, precision=precision), dataset, "cuda")
    host, there = torch.get_rng_state(), torch.cuda.get_rng_state()
    trainer.method.train()
    for images, labels in [*trainer.batches][:2]:
        card.waits.clear()
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = trainer.method(images, labels)
        loss.backward()
        trainer.optimizer.step()
        trainer.method.on_step_end()
        assert loss.is_cuda
        assert loss.dtype == torch.float32
        for parameter in trainer.classifier.parameters():
            assert parameter.grad.is_cuda
            assert parameter.grad.isfinite().all()
        trainer.optimizer.zero_grad()
    assert all(tensor.is_cuda for tensor in trainer.method.state_dict().values() if isinstance(tensor, nn.Parameter))
    assert torch.equal(torch.get_rng_state(), host), "a method drew from the global generator"
    assert torch.equal(torch.cuda.get_rng_state(), there), "a method drew from CUDA's global generator"


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", NO_WAITS)
def test_an_epoch_never_waits_for_the_card(card, dataset, name, precision):
    epochs = 4  # of three steps each: the coin falls on both sides
    trainer = Trainer(config(name, precision=precision, epochs=epochs), dataset, "cuda")
    card.waits.clear()
    for epoch in range(epochs):
        losses = train_epoch(trainer, epoch)
    assert losses.is_cuda
    assert not card.waits


def test_the_teacher_moves_by_a_handful_of_operations(card, dataset):
    for name in ("multimix_distill", "dense_multimix_distill"):
        trainer = Trainer(config(name, model="preactresnet18"), dataset, "cuda")
        card.launches.clear()
        card.waits.clear()
        trainer.method.on_step_end()
        assert 1 <= card.launches.total() <= 4
        assert not card.waits


@pytest.mark.usefixtures("card")
def test_a_device_may_be_the_number_of_a_card():
    partners, _ = transforms.draw_pairs(4, device=0)
    assert {partners.device, transforms.zeta_weights(4, device=0).device} == {torch.device("cuda", 0)}


@pytest.mark.parametrize("criterion", [MultiMixLoss, DenseMultiMixLoss])
def test_a_loss_starts_few_operations(card, criterion):
    """Weights, forward and backward pass; dense with the attention's and the head's."""
    generator = torch.Generator("cuda").manual_seed(0)
    values = torch.randn(16, 6, 4).to("cuda").requires_grad_()
    labels, head = torch.arange(16).to("cuda") % 3, nn.Linear(6, 3).to("cuda")
    loss = criterion(1000, generator=generator)
    given = (values, head) if criterion is DenseMultiMixLoss else (values.mean(2)[:, :3].detach().requires_grad_(),)
    loss(*given, labels).backward()
    for tensor in (values, *given[:1], *head.parameters()):
        tensor.grad = None
    card.launches.clear()
    card.waits.clear()
    loss(*given, labels).backward()
    assert 20 <= card.launches.total() <= MOST_LAUNCHES[criterion]
    assert not card.waits


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_method_computes_on_the_card_what_torch_computes_here(dataset, name):
    with pretend():
        there = Trainer(config(name, precision="float64"), dataset, "cuda")
        losses = train_epoch(there, 0).cpu()
    here = Trainer(config(name, precision="float64"), dataset, "cpu")
    torch.testing.assert_close(losses, train_epoch(here, 0))
    torch.testing.assert_close(weights(there), weights(here))


# Training, and the runs that it leaves


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["erm", *NO_WAITS[3:], "alignmixup", "zeta_mixup"])
def test_a_run_stopped_on_the_card_goes_on_there(card, dataset, tmp_path, name, precision):
    settings = config(name, precision=precision)
    whole = training.train(settings, dataset, device="cuda")
    with pytest.raises(TimeoutError, match="stopped after 1 of 2 epochs"):
        training.train(settings, dataset, device="cuda", folder=tmp_path, max_minutes=1e-9)
    resumed = training.train(settings, dataset, device="cuda", folder=tmp_path)
    assert_equal(weights(resumed), weights(whole))
    assert [row["loss"] for row in resumed.history] == [row["loss"] for row in whole.history]
    assert all(math.isfinite(row["validation_accuracy"]) for row in whole.history)
    assert resumed.classifier.head.weight.is_cuda


def test_training_leaves_both_global_generators_alone(card, dataset, tmp_path):
    here, there = torch.get_rng_state(), torch.cuda.get_rng_state()
    training.train(config("multimix"), dataset, device="cuda", folder=tmp_path)
    assert torch.equal(torch.get_rng_state(), here)
    assert torch.equal(torch.cuda.get_rng_state(), there)


def test_a_stopped_run_is_refused_by_name_on_another_kind_of_device(dataset, tmp_path):
    for first, second in (("cuda", "cpu"), ("cpu", "cuda")):
        with pretend(), pytest.raises(TimeoutError):
            training.train(config(), dataset, device=first, folder=tmp_path / first, max_minutes=1e-9)
        with pretend(), pytest.raises(ValueError, match=f"device must be '{first}', .*got '{second}'"):
            training.train(config(), dataset, device=second, folder=tmp_path / first)


def finish(settings, dataset, folder, device):
    trainer = runs.load_or_train(settings, dataset, folder, device=device)
    found, predictions = evaluation.evaluate(trainer.classifier, dataset, attacked_per_class=1)
    runs.save_run(folder, trainer, found, predictions)
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize("name", ["erm", "multimix_distill", "dense_multimix"])
def test_a_run_finished_on_one_kind_of_device_is_read_on_the_other(dataset, tmp_path, name):
    there, here = (tmp_path / device / "noise" / "preactresnet-small" / name / "seed0" for device in ("cuda", "cpu"))
    with pretend():
        of_card = finish(config(name), dataset, there, "cuda")
        peak = torch.cuda.max_memory_allocated()
    record = runs.load_run(there)
    assert record.environment["device"] == "Pretended"
    assert 0 < record.environment["peak_memory_mib"] * 2**20 <= peak
    read = runs.load_or_train(config(name), dataset, there, device="cpu")
    assert read.classifier.head.weight.device.type == "cpu"
    assert read.history == of_card.history
    assert_equal(weights(read), weights(of_card))
    assert_equal(record.classifier(dataset).state_dict(), weights(of_card))

    of_host = finish(config(name), dataset, here, "cpu")
    with pretend():
        read = runs.load_or_train(config(name), dataset, here, device="cuda")
        assert read.classifier.head.weight.is_cuda
        assert_equal(weights(read), weights(of_host))
        classifier = runs.load_run(here).classifier(dataset).to("cuda")
        evaluation.predict(classifier, dataset.test)


# Evaluation


def flat(value, name=""):
    """The numbers of an evaluation by path."""
    if isinstance(value, dict):
        return {path: x for key, item in value.items() for path, x in flat(item, f"{name}/{key}").items()}
    if isinstance(value, list):
        return flat(dict(enumerate(value)), name)
    return {name: value}


@pytest.mark.slow
@pytest.mark.parametrize("splits_on_card", [False, True])
def test_evaluation_gives_the_same_numbers_on_the_card(dataset, splits_on_card):
    trained = training.train(config("multimix"), dataset).classifier
    expected, _ = evaluation.evaluate(trained, dataset, attacked_per_class=2)
    with pretend():
        there = dataset
        if splits_on_card:
            moved = [part.to("cuda") for part in (dataset.train, dataset.validation, dataset.test)]
            there = data.Dataset("noise", *moved, tuple("abcd"), 4, padding=1, flip=True)
            assert there.fingerprint == dataset.fingerprint
            assert there.moments == dataset.moments
        found, predictions = evaluation.evaluate(copy.deepcopy(trained).to("cuda"), there, attacked_per_class=2)
    assert not any(map(on_card, predictions))
    assert flat(found) == pytest.approx(flat(expected), nan_ok=True)


@pytest.mark.slow
def test_evaluation_needs_no_more_memory_on_the_card_than_training(card):
    large = data.Dataset("noise", split(600, 0), None, split(600, 2), tuple("abcd"), 32, padding=1, flip=True)
    trainer = training.train(config(epochs=1), large, device="cuda")
    of_training = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    evaluation.evaluate(trainer.classifier, large, attacked_per_class=20)
    assert torch.cuda.max_memory_allocated() <= 1.1 * of_training  # an attack holds the bounds of its ball, too


@pytest.mark.slow
def test_images_of_files_are_trained_on_and_evaluated(card, tmp_path):
    rng = np.random.default_rng(0)
    for k in range(24):
        place = tmp_path / "photos" / ("train", "test")[k % 2] / ("ant", "bee")[k // 2 % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(place / f"{k:02}.png")
    photos = data.load(str(tmp_path / "photos"), size=16)
    settings = Config(dataset="photos", method="multimix", options={"num_mixtures": 50}, batch_size=4, epochs=2)
    trainer = training.train(settings, photos, device="cuda", folder=tmp_path / "run")
    card.waits.clear()
    train_epoch(trainer, 1)
    assert card.waits.total() <= 4, "more waits than an epoch's draws take"
    found, predictions = evaluation.evaluate(trainer.classifier, photos, attacked_per_class=1)
    assert predictions.logits.shape == (12, 2)
    assert math.isfinite(found["nll"])


LOGITS = {
    "accuracy": {"k": 2},
    "calibration_error": {},
    "reliability_bins": {},
    "confusion_matrix": {},
}
EMBEDDINGS = ["alignment", "class_means", "class_variances", "class_mean_cosine"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_metrics_give_the_same_numbers_on_the_card(card, dtype):
    generator = torch.Generator("cpu").manual_seed(0)
    x, labels = torch.randn(40, 5, generator=generator).to(dtype), torch.arange(40) % 5
    there, labels_there = x.to("cuda"), labels.to("cuda")
    found = {name: getattr(metrics, name)(there, labels_there, **options) for name, options in LOGITS.items()}
    expected = {name: getattr(metrics, name)(x, labels, **options) for name, options in LOGITS.items()}
    found |= {name: getattr(metrics, name)(there, labels_there) for name in EMBEDDINGS}
    expected |= {name: getattr(metrics, name)(x, labels) for name in EMBEDDINGS}
    found |= {"uniformity": metrics.uniformity(there), "class_means": metrics.class_means(there, labels_there)}
    expected |= {"uniformity": metrics.uniformity(x), "class_means": metrics.class_means(x, labels)}
    found["knn"] = metrics.knn_accuracy(there[:20], labels_there[:20], there[20:], labels_there[20:])
    expected["knn"] = metrics.knn_accuracy(x[:20], labels[:20], x[20:], labels[20:])
    for name in expected:
        for a, b in zip(tree_leaves(found[name]), tree_leaves(expected[name]), strict=True):
            torch.testing.assert_close(
                torch.as_tensor(a).cpu(), torch.as_tensor(b), msg=lambda text, name=name: name + text
            )


# Criteria, the recipe, transforms

M, C, D, R = 6, 5, 7, 4


def embeddings(device, dtype):
    generator = torch.Generator("cpu").manual_seed(0)
    logits, features = torch.randn(M, C, generator=generator), torch.randn(M, D, 2, 2, generator=generator)
    labels, hot = torch.arange(M) % C, torch.rand(M, C, generator=generator) > 0.6
    moved = [x.to(device, dtype).requires_grad_() for x in (logits, features)]
    return *moved, labels.to(device), hot.to(device)


def heads(device, dtype):
    torch.default_generator.manual_seed(3)
    affine, deep = nn.Linear(D, C), nn.Sequential(nn.Linear(D, D), nn.Tanh(), nn.Linear(D, C))
    return affine.to(device, dtype), deep.to(device, dtype)


ARGUMENTS = {
    "plain": {},
    "total": {"alpha_is_total": True, "alpha": 2.0},
    "weighted": {"weight": torch.tensor([1.0, 2.0, 1.0, 0.5, 1.0])},
    "smoothed": {"label_smoothing": 0.1, "reduction": "sum"},
    "ignoring": {"ignore_index": 2, "reduction": "none"},
    "small alpha": {"alpha": (0.01, 0.1)},
}


def losses(device, dtype, arguments):
    """All criteria's losses on labels and on distributions, with drawn and with given weights; and the gradients."""
    generator = torch.Generator(device).manual_seed(1)
    logits, features, labels, hot = embeddings(device, dtype)
    affine, deep = heads(device, dtype)
    given = torch.rand(9, M, generator=torch.Generator("cpu").manual_seed(2)).softmax(1).to(device)
    distributions = torch.full((M, C), 1 / C, device=device)
    plain = MultiMixLoss(20, generator=generator, **arguments).to(device)
    dense = DenseMultiMixLoss(20, generator=generator, affine=True, **arguments).to(device)
    slow = DenseMultiMixLoss(20, generator=generator, affine=False, **arguments).to(device)
    found = [plain(logits, labels), plain(logits, labels, mixing_weights=given)]
    found += [dense(features, affine, labels), dense(features, affine, labels, mixing_weights=given)]
    found += [slow(features, deep, labels), slow(features, deep, labels, mixing_weights=given)]
    if "ignore_index" not in arguments:
        found += [
            plain(logits, distributions),
            dense(features, affine, distributions),
            slow(features, deep, distributions),
        ]
    if not arguments.keys() & {"ignore_index", "label_smoothing"}:
        binary = MultiMixBCELoss(20, generator=generator, **arguments).to(device)
        found += [binary(logits, hot), binary(logits, hot, mixing_weights=given)]
    mask = torch.tensor([[True, True, False, True]]).expand(M, R).to(device)
    found += [dense(features.flatten(2), affine, labels, mask=mask), slow(features.flatten(2), deep, labels, mask=mask)]
    tokens = DenseMultiMixLoss(20, generator=generator, layout="channels_last", attention="cam", detach_attention=False)
    found.append(tokens(features.flatten(2).mT, affine, labels))
    sum(loss.float().sum() for loss in found).backward()
    gradients = [logits.grad, features.grad, *(p.grad for head in (affine, deep) for p in head.parameters())]
    unmixed = [plain.eval()(logits, labels), dense.eval()(features, affine, labels)]
    assert all(x.device.type == device for x in (*found, *gradients, *unmixed))
    return [x.detach().cpu() for x in (*found, *gradients, *unmixed)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("name", ARGUMENTS)
def test_criteria_give_the_same_on_the_card_and_never_wait(name, dtype):
    expected = losses("cpu", dtype, ARGUMENTS[name])
    with pretend() as card:
        heads("cuda", dtype)
        setup, before = embeddings("cuda", dtype), card.waits.copy()
        found = losses("cuda", dtype, ARGUMENTS[name])
    lines = {line for line, cause in (card.waits - before) if not line.startswith("tests/")}
    assert not lines
    for one, other in zip(found, expected, strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(one, other)
    assert setup


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_criteria_under_autocast(card, dtype):
    logits, features, labels, hot = embeddings("cuda", torch.float32)
    affine, deep = heads("cuda", torch.float32)
    generator = torch.Generator("cuda").manual_seed(1)
    layer = nn.Linear(C, C).to("cuda")
    card.waits.clear()
    with torch.autocast("cuda", dtype):
        half = layer(logits)
        assert half.dtype == dtype
        found = [
            MultiMixLoss(20, generator=generator)(half, labels),
            MultiMixBCELoss(20, generator=generator)(half, hot),
        ]
        found.append(DenseMultiMixLoss(20, generator=generator)(features, affine, labels))
        found.append(DenseMultiMixLoss(20, generator=generator, affine=False)(features, deep, labels))
    sum(found).backward()
    assert not card.waits
    assert all(loss.dtype == torch.float32 for loss in found)
    assert layer.weight.grad.isfinite().all()


@pytest.mark.parametrize("make", [MultiMixLoss, DenseMultiMixLoss, MultiMixBCELoss])
def test_the_recipe_never_waits(card, make):
    backbone, head = nn.Conv2d(3, D, 3).to("cuda"), nn.Linear(D, C).to("cuda")
    model = nn.Sequential(backbone, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    recipe = MultiMixRecipe(make(20, generator=torch.Generator("cuda").manual_seed(1)))
    images, (_, _, labels, hot) = torch.rand(M, 3, 4, 4, device="cuda"), embeddings("cuda", torch.float32)
    targets = hot if make is MultiMixBCELoss else labels
    apart = {"features": backbone, "head": head} if make is DenseMultiMixLoss else {}
    card.waits.clear()
    for _ in range(12):
        recipe(model, images, targets, **apart).backward()
    recipe.eval()(model, images, targets, **apart)
    assert not card.waits
    assert head.weight.grad.is_cuda


@pytest.mark.parametrize("name", ["Mixup", "CutMix", "ZetaMixup"])
@pytest.mark.parametrize("generator", [None, "cpu"])
def test_transforms_never_wait(card, name, generator):
    generator = generator and torch.Generator(generator)
    images, labels = torch.rand(M, 3, 8, 8, device="cuda"), torch.arange(M).remainder(C).to("cuda")
    transform = getattr(transforms, name)(num_classes=C, generator=generator)
    card.waits.clear()
    for _ in range(4):
        mixed, targets = transform(images, labels)
        assert mixed.is_cuda
        assert targets.is_cuda
    assert not card.waits
    torch.testing.assert_close(targets.sum(1), torch.ones(M, device="cuda"))


# Detection


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["ssd", "fasterrcnn"])
def test_detectors_train_and_predict_on_the_card(monkeypatch, tmp_path, detector):
    monkeypatch.setattr(scenes, "VALIDATION", 2)
    monkeypatch.setattr(scenes, "TEST", 2)
    settings = detection.Config(detector=detector, train_images=4, epochs=1, batch_size=2)
    with pretend():
        here, there = torch.get_rng_state(), torch.cuda.get_rng_state()
        content = detection.run(settings, tmp_path / "record.json", device="cuda")
        assert torch.equal(torch.get_rng_state(), here)
        assert torch.equal(torch.cuda.get_rng_state(), there)
    assert math.isfinite(content["history"][0]["loss"])
    assert content["environment"]["device"] == "Pretended"
