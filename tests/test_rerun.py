"""A record is run again from itself alone, as it was run, or the reason why not is given."""

import dataclasses
import json

import numpy as np
import pytest
import torch

import mmlib.experiments.__main__
from mmbook import ledger, machine
from mmlib.experiments import runs
from mmlib.experiments.__main__ import parse
from mmlib.experiments.arguments import to_arguments
from mmlib.experiments.data import Split
from mmlib.experiments.training.config import Config
from tools import rerun


@pytest.fixture(scope="module")
def record_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    run = folder / "run" / "digits" / "preactresnet-small" / "few" / "seed3"
    config = {"dataset": "digits", "method": "multimix", "options": {"num_mixtures": 20}, "epochs": 2, "seed": 3}
    settings = {"folder": str(run), "attacked_per_class": 1, "out_sets": ["gaussian"], "threads": 1}
    mmlib.experiments.__main__.main(to_arguments(config | settings))
    ledger.add(ledger.load_folder(run), folder / "ledger")
    return folder / "ledger" / "digits" / "preactresnet-small" / "few" / "seed3.json"


@pytest.fixture
def record(record_path):
    return ledger.load_record(record_path)


@pytest.mark.slow
def test_a_record_is_run_again_from_itself_alone(record_path, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rerun, "RUNS", tmp_path / "rerun")
    rerun.main([str(record_path)])
    printed = capsys.readouterr().out
    assert "all metrics are the same to the last digit" in printed
    accuracy = json.loads(record_path.read_text())["metrics"]["accuracy"]
    assert f"accuracy                {accuracy:12.4f}{accuracy:12.4f}     +0.0000" in printed
    assert "recorded with" not in printed


def test_other_data_and_edited_records_are_refused(record, record_path, tmp_path, monkeypatch):
    monkeypatch.setattr(rerun, "RUNS", tmp_path / "rerun")
    config = rerun.recorded_config(record) | {"data": "0" * 16}
    other = dataclasses.replace(record, config=config | {"digest": runs.checksum(config)})
    ledger.add(other, tmp_path / "other", embeddings=False)
    with pytest.raises(ValueError, match="data must have the record's fingerprint 0000000000000000, got"):
        rerun.main([str(tmp_path / "other" / other.path) + ".json"])
    edited = tmp_path / "digits" / "preactresnet-small" / "few" / "seed3.json"
    edited.parent.mkdir(parents=True)
    edited.write_text(record_path.read_text().replace('"epochs": 2', '"epochs": 3'))
    with pytest.raises(ValueError, match="edited by hand"):
        rerun.main([str(edited)])
    assert not (tmp_path / "rerun").exists()


def test_the_rerun_uses_what_the_record_says_of_its_run(record, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    of_gpu = {"device": "A card", "device_type": "cuda", "threads": 3, "workers": 4, "compile": True}
    record = dataclasses.replace(record, environment=record.environment | of_gpu)
    config, options = parse(rerun.command_arguments(record, "digits", "elsewhere", None, 1))
    assert config == Config(method="multimix", options={"num_mixtures": 20}, epochs=2, seed=3)
    assert (options.device, options.threads, options.workers, options.compile) == ("cuda", 3, 4, True)
    assert (options.root, options.attacked_per_class, options.out_sets) == ("elsewhere", 1, ["gaussian"])


def test_a_device_that_is_not_here_is_refused_unless_another_is_given(record, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    of_gpu = dataclasses.replace(record, environment=record.environment | {"device_type": "cuda"})
    with pytest.raises(ValueError, match="device must be 'cpu' where torch finds no GPU, got 'cuda'"):
        rerun.command_arguments(of_gpu, "digits", "data", None, 1)
    assert parse(rerun.command_arguments(of_gpu, "digits", "data", "cpu", 1))[1].device == "cpu"


def test_a_record_that_does_not_say_its_kind_of_device_needs_it_said(record):
    without = {name: value for name, value in record.environment.items() if name != "device_type"}
    old = dataclasses.replace(record, environment=without)
    with pytest.raises(ValueError, match="--device must be given, for the record does not say its kind of device"):
        rerun.command_arguments(old, "digits", "data", None, 1)
    assert parse(rerun.command_arguments(old, "digits", "data", "cpu", 1))[1].device == "cpu"


def test_several_processes_are_started_by_torchrun(monkeypatch):
    commands = []
    monkeypatch.setattr(rerun.subprocess, "run", lambda command, check: commands.append(command))
    rerun.run(["--folder", "x"], processes=4)
    ((*_, flag, count, dash_m, module, option, folder),) = commands
    assert (flag, count, dash_m, module) == ("--nproc-per-node", "4", "-m", "mmlib.experiments")
    assert (option, folder) == ("--folder", "x")


def of_digits(variant="erm"):
    return ledger.load_record(rerun.RESULTS / "digits" / "digits" / "preactresnet-small" / variant / "seed0.json")


@pytest.mark.parametrize(
    ("widths", "said"),
    [(0, "identical"), (0.9, "within the band"), (-0.9, "within the band"), (1.1, "outside the band")],
)
def test_a_rerun_says_whether_it_lies_within_the_measured_band(widths, said):
    record = of_digits()
    band, pairs = machine.measure_band(rerun.RESULTS / "digits", rerun.RESULTS / "other-instructions")
    metrics = record.metrics | {"accuracy": record.metrics["accuracy"] + widths * band["accuracy"]}
    first, *others = rerun.conclude(record, dataclasses.replace(record, metrics=metrics))
    assert first.startswith(f"{said}: ")
    assert (f"accuracy ± {band['accuracy']:.2f}" in first) == (widths != 0)
    assert others == (["differ in some digit: accuracy"] if widths else [])
    assert pairs >= 8


def test_a_rerun_of_another_length_has_no_band_and_what_differs_is_named():
    record = of_digits()
    config = record.config | {"epochs": 2001}
    metrics = record.metrics | {"accuracy": record.metrics["accuracy"] + 0.1}
    environment = record.environment | {"commit": "0" * 40, "instructions": {"MKL_CBWR": "AVX2"}}
    longer = dataclasses.replace(record, config=config)
    again = dataclasses.replace(longer, metrics=metrics, environment=environment)
    first, _, commit, instructions = rerun.conclude(longer, again)
    assert first == "no band is measured for runs of this data set, network and length"
    assert commit == f"commit: recorded with {record.environment['commit']}, here {'0' * 40}"
    assert instructions.startswith("instructions: recorded with {'ATEN_CPU_CAPABILITY': 'avx2', ")


SIZES = [2, 9, 5]  # test images of each class


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 9])
def test_attacked_images_say_how_many_of_each_class_they_are(count):
    labels = torch.arange(3).repeat_interleave(torch.tensor(SIZES))[torch.randperm(16)]
    split = Split(torch.zeros(16, 1, 2, 2, dtype=torch.uint8), labels)
    images = len(split.first_per_class(count))
    assert images == sum(min(count, size) for size in SIZES)
    again = rerun.attacked_per_class(split, images)
    assert again == count
    assert torch.equal(split.first_per_class(again).labels, split.first_per_class(count).labels)


@pytest.mark.parametrize("images", [1, 17])
def test_attacked_images_that_are_of_no_such_count_are_refused(images):
    split = Split(torch.zeros(16, 1, 2, 2, dtype=torch.uint8), torch.arange(3).repeat_interleave(torch.tensor(SIZES)))
    with pytest.raises(ValueError, match=f"attacked_images must be some of each of 3 classes, got {images}"):
        rerun.attacked_per_class(split, images)


@pytest.mark.slow
@pytest.mark.parametrize("attacked", [0, 3])
def test_a_data_set_of_ones_own_with_unequal_classes_is_run_again(tmp_path, monkeypatch, capsys, attacked):
    """Also a run without attacks, which is a record as any other."""
    rng, labels = np.random.default_rng(0), np.repeat([0, 1, 2], SIZES)
    images = (rng.integers(0, 40, (16, 8, 8)) + 60 * labels[:, None, None]).astype(np.uint8)
    arrays = {"train_images": images, "train_labels": labels, "test_images": images[::-1], "test_labels": labels[::-1]}
    np.savez(tmp_path / "mine.npz", **arrays)
    run = tmp_path / "run" / "mine" / "preactresnet-small" / "erm" / "seed0"
    settings = {"dataset": str(tmp_path / "mine.npz"), "method": "erm", "epochs": 2, "batch_size": 4, "threads": 1}
    settings |= {"folder": str(run), "attacked_per_class": attacked, "out_sets": []}
    mmlib.experiments.__main__.main(to_arguments(settings))
    ledger.add(ledger.load_folder(run), tmp_path / "ledger")
    monkeypatch.setattr(rerun, "RUNS", tmp_path / "rerun")
    record = tmp_path / "ledger" / "mine" / "preactresnet-small" / "erm" / "seed0.json"
    rerun.main([str(record), "--dataset", str(tmp_path / "mine.npz")])
    printed = capsys.readouterr().out
    assert "all metrics are the same to the last digit" in printed
    assert ledger.load_record(record).metrics["attacked_images"] == {0: 0, 3: 8}[attacked]
    error = next(line for line in printed.splitlines() if line.startswith("fgsm_error"))
    assert (error.split()[1] == "-") == (attacked == 0)
