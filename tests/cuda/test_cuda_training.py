"""Runs on the device: resumed to the bit, read on either kind of device, evaluated in no more memory than trained."""

import dataclasses
import io

import pytest
import torch

from mmlib.experiments import data, evaluation, runs, training
from mmlib.experiments.methods import METHODS
from mmlib.experiments.methods.base import option_names
from mmlib.experiments.training import Config


def config(name, **overrides):
    options = {"num_mixtures": 50} if "num_mixtures" in option_names(METHODS[name]) else {}
    return Config(**{"dataset": "noise", "method": name, "options": options, "epochs": 3, **overrides})


def weights(trainer):
    return {name: value.cpu() for name, value in trainer.classifier.state_dict().items()}


def assert_equal(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["erm", "mixup", "cutmix", "multimix", "dense_multimix", "multimix_distill"])
def test_a_stopped_run_goes_on_to_the_same_bits(device, repeatable, dataset, tmp_path, name, precision):
    settings = config(name, precision=precision)
    whole = training.train(settings, dataset, device=device)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            training.train(settings, dataset, device=device, folder=tmp_path, max_minutes=1e-9)
    resumed = training.train(settings, dataset, device=device, folder=tmp_path)
    assert_equal(weights(resumed), weights(whole))
    assert [row["loss"] for row in resumed.history] == [row["loss"] for row in whole.history]


def test_training_leaves_the_global_generators_alone(device, dataset):
    states = torch.get_rng_state(), torch.cuda.get_rng_state() if device == "cuda" else None
    training.train(config("multimix"), dataset, device=device)
    assert torch.equal(torch.get_rng_state(), states[0])
    if device == "cuda":
        assert torch.equal(torch.cuda.get_rng_state(), states[1])


def test_a_stopped_run_is_refused_on_the_other_kind_of_device(device, dataset, tmp_path):
    if device == "cpu":
        pytest.skip("there is no other kind")
    for first, second in ((device, "cpu"), ("cpu", device)):
        with pytest.raises(TimeoutError):
            training.train(config("erm"), dataset, device=first, folder=tmp_path / first, max_minutes=1e-9)
        with pytest.raises(ValueError, match=f"device must be '{first}'.*got '{second}'"):
            training.train(config("erm"), dataset, device=second, folder=tmp_path / first)


@pytest.mark.parametrize("name", ["multimix", "dense_multimix_distill"])
def test_a_finished_run_is_read_on_either_kind_of_device(device, dataset, tmp_path, name):
    for first, second in ((device, "cpu"), ("cpu", device)):
        folder = tmp_path / first / "noise" / "preactresnet-small" / name / "seed0"
        trainer = runs.load_or_train(config(name), dataset, folder, device=first)
        found, predictions = evaluation.evaluate(trainer.classifier, dataset, attacked_per_class=1)
        runs.save_run(folder, trainer, found, predictions)
        read = runs.load_or_train(config(name), dataset, folder, device=second)
        assert_equal(weights(read), weights(trainer))
        classifier = runs.load_run(folder).classifier(dataset).to(second)
        logits = evaluation.predict(classifier, dataset.test).logits
        torch.testing.assert_close(logits, predictions.logits, rtol=1e-3, atol=1e-3)


def test_evaluation_gives_the_numbers_of_the_processor(device, dataset):
    trained = training.train(config("erm", precision="float64"), dataset).classifier
    expected, of_host = evaluation.evaluate(trained, dataset, attacked_per_class=2)
    found, of_device = evaluation.evaluate(trained.to(device), dataset, attacked_per_class=2)
    torch.testing.assert_close(of_device.logits, of_host.logits)
    for name in ("accuracy", "nll", "alignment", "uniformity", "knn_accuracy", "fgsm_error", "pgd_errors"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5), name


def test_evaluation_takes_no_more_memory_than_training(device, peak_memory, dataset):
    """Of many images, in the batch size of the training."""
    many = torch.arange(2000) % len(dataset.train)
    large = dataclasses.replace(dataset, train=dataset.train[many], test=dataset.test[many % 20], batch_size=32)
    trainers = []
    of_training = peak_memory(lambda: trainers.append(training.train(config("erm", epochs=1), large, device=device)))
    assert trainers[0].peak_memory_mib * 2**20 >= of_training
    classifier = trainers.pop().classifier
    of_evaluation = peak_memory(lambda: evaluation.evaluate(classifier, large, attacked_per_class=20))
    assert of_evaluation <= 1.1 * of_training


def test_a_file_of_the_device_opens_without_it(device, dataset, tmp_path):
    training.train(config("multimix", epochs=1), dataset, device=device, folder=tmp_path)
    state = torch.load(io.BytesIO((tmp_path / "checkpoint.pt").read_bytes()), weights_only=True)
    tensors = [x for x in torch.utils._pytree.tree_leaves(state) if isinstance(x, torch.Tensor)]
    assert {x.device.type for x in tensors} == {"cpu"}


def test_splits_on_the_device_are_evaluated(device, dataset):
    moved = {name: getattr(dataset, name).to(device) for name in ("train", "validation", "test")}
    there = data.Dataset(**{field.name: getattr(dataset, field.name) for field in dataclasses.fields(dataset)} | moved)
    assert there.fingerprint == dataset.fingerprint
    found, _ = evaluation.evaluate(training.train(config("erm"), there, device=device).classifier, there)
    assert 0 <= found["accuracy"] <= 100
