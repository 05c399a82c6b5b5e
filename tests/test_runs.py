"""The run folder's contract, and the ledger."""

import dataclasses
import json
import math
import subprocess

import numpy as np
import pytest
import torch

from mmbook import ledger
from mmlib.experiments import data, provenance, runs, training
from mmlib.experiments.__main__ import main
from mmlib.experiments.evaluation.suite import evaluate
from mmlib.experiments.provenance import environment
from mmlib.experiments.training.checkpoints import Checkpoints
from mmlib.experiments.training.config import Config


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def finished(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "grid" / "digits" / "preactresnet-small" / "mixup" / "seed0"
    config = Config(method="mixup", epochs=3)
    run = runs.load_or_train(config, digits, folder)
    metrics, predictions = evaluate(run.classifier, digits)
    runs.write(folder, run, metrics, predictions)
    return folder, config, run, metrics, predictions


def test_record_is_what_was_written(finished, digits):
    folder, _, run, metrics, predictions = finished
    record = runs.read(folder)
    assert (record.dataset, record.model, record.variant, record.seed) == ("digits", "preactresnet-small", "mixup", 0)
    assert record.metrics == metrics
    assert record.history == run.history
    assert record.config.items() >= {"lr": 0.1, "epochs": 3, "data": digits.fingerprint}.items()
    assert record.environment["torch"] == torch.__version__
    kept = record.embeddings()
    np.testing.assert_allclose(kept["embeddings"], predictions.embeddings[kept["indices"]].half())
    np.testing.assert_array_equal(kept["labels"], digits.test.labels[kept["indices"]])
    assert np.bincount(kept["labels"]).max() <= 100
    assert not list(folder.glob("*.partial*"))


def test_finished_run_is_read_and_not_trained_again(finished, digits, monkeypatch):
    folder, config, run, *_ = finished
    monkeypatch.setattr("mmlib.experiments.training.trainer.train_epoch", None)
    again = runs.load_or_train(config, digits, folder)
    torch.testing.assert_close(again.classifier.state_dict(), run.classifier.state_dict(), rtol=0, atol=0)
    assert not again.classifier.training


def test_folder_of_another_finished_run_is_refused(finished, digits):
    folder, config, *_ = finished
    with pytest.raises(ValueError, match=r"whose lr is 0.1, not 0.2"):
        runs.load_or_train(dataclasses.replace(config, lr=0.2), digits, folder)


def test_unfinished_folder_of_another_configuration_starts_anew(finished, digits, tmp_path):
    _, config, run, *_ = finished
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(run.state())
    checkpoints.wait()
    with pytest.warns(UserWarning, match="made with epochs 3, not 1: passed over"):
        other = runs.load_or_train(dataclasses.replace(config, epochs=1), digits, tmp_path)
    assert len(other.history) == 1


def test_metrics_come_last(finished, tmp_path, monkeypatch):
    *_, run, metrics, predictions = finished
    written = []
    write = runs.write_atomic
    monkeypatch.setattr(runs, "write_whole", lambda path, content: (written.append(path.name), write(path, content)))
    runs.write(tmp_path, run, metrics, predictions)
    assert written[-1] == "metrics.json"
    assert sorted(written) == ["config.json", "embeddings.npz", "environment.json", "history.csv", "metrics.json"]


def test_folders_without_metrics_are_not_read(finished, tmp_path):
    folder, *_ = finished
    unfinished = tmp_path / "digits" / "preactresnet-small" / "mixup" / "seed0"
    unfinished.mkdir(parents=True)
    for name in ("config.json", "history.csv", "environment.json"):
        (unfinished / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(FileNotFoundError, match=r"results is .* holds no finished run"):
        ledger.collect(tmp_path)
    assert len(ledger.collect(folder.parents[3])) == 1


def digest(config, dataset):
    return runs.checksum(training.describe(config, dataset))


def test_digest_follows_configuration_and_data(finished, digits):
    _, config, *_ = finished
    digests = {
        digest(config, digits),
        digest(dataclasses.replace(config, seed=4), digits),
        digest(config, data.load("digits", seed=1)),
        digest(config, data.load("digits", labelled_per_class=9, seed=3)),
    }
    assert len(digests) == 4
    assert digest(dataclasses.replace(config), data.load("digits")) == digest(config, digits)


def test_ledger_keeps_the_record_and_refuses_an_edited_one(finished, tmp_path):
    folder, _, run, *_ = finished
    record = runs.read(folder)
    ledger.enter(record, tmp_path, weights=True)
    (read,) = ledger.collect(tmp_path)
    assert read.metrics == record.metrics
    assert read.history == record.history
    assert read.seed == 0
    np.testing.assert_array_equal(read.embeddings()["embeddings"], record.embeddings()["embeddings"])
    weights = read.weights()
    assert weights.keys() == run.classifier.state_dict().keys()
    torch.testing.assert_close(weights, run.classifier.state_dict(), rtol=0, atol=0)
    assert sorted(path.name for path in tmp_path.rglob("seed*")) == ["seed0.json", "seed0.npz", "seed0.pt"]
    path = tmp_path / "digits" / "preactresnet-small" / "mixup" / "seed0.json"
    path.write_text(path.read_text().replace('"accuracy": ', '"accuracy": 9'))
    with pytest.raises(ValueError, match=r"seed0.json does not fit its checksum: it was edited by hand"):
        ledger.read(path)


def test_ledger_holds_a_history_by_columns_or_rows_and_no_embeddings_that_a_grid_does_without(finished, tmp_path):
    folder, *_ = finished
    record = runs.read(folder)
    ledger.enter(record, tmp_path, embeddings=False)
    (path,) = (path for path in tmp_path.rglob("seed*"))
    content = json.loads(path.read_text())
    assert content["history"]["loss"] == [row["loss"] for row in record.history]
    assert ledger.read(path).history == record.history
    content = {k: v for k, v in content.items() if k != "checksum"} | {"history": record.history}
    path.write_text(json.dumps(content | {"checksum": runs.checksum(content)}))  # as before there were columns
    assert ledger.read(path).history == record.history
    content["history"] = {"epoch": [1, 2], "loss": [0.5]}
    path.write_text(json.dumps(content | {"checksum": runs.checksum(content)}))
    with pytest.raises(ValueError, match=r"seed0.json has a history whose columns differ in length"):
        ledger.read(path)


def test_a_record_gives_its_network_back(finished, digits):
    folder, _, run, _, predictions = finished
    classifier = runs.read(folder).classifier(data.load("digits", seed=3))
    torch.testing.assert_close(classifier.state_dict(), run.classifier.state_dict(), rtol=0, atol=0)
    assert not classifier.training
    images = digits.test.images[:50].float() / 255
    torch.testing.assert_close(classifier(images), predictions.logits[:50])


def test_a_network_of_another_data_set_class_count_or_model_is_refused_by_name(finished, digits, tmp_path):
    folder, *_ = finished
    record = runs.read(folder)
    place = "digits/preactresnet-small/mixup/seed0"
    with pytest.raises(ValueError, match=rf"dataset is pets; {place} takes digits"):
        record.classifier(dataclasses.replace(digits, name="pets"))
    with pytest.raises(ValueError, match=r"small for the images and 11 classes of digits: 10 classes; size mis"):
        record.classifier(dataclasses.replace(digits, class_names=(*digits.class_names, "ten")))
    other = dataclasses.replace(record, config=record.config | {"model": "vit-tiny"})
    words = r"checkpoint.pt is of another network than vit-tiny for .*: 10 classes; Missing key.*encoder.0.patches"
    with pytest.raises(ValueError, match=words):
        other.classifier(digits)
    splits = {
        name: data.Split(split.images.expand(-1, 3, -1, -1), split.labels) for name, split in digits.splits().items()
    }
    words = r"than preactresnet-small for .*; size mismatch for mean: .*1, 1, 1.*3, 1, 1"
    with pytest.raises(ValueError, match=words):
        record.classifier(dataclasses.replace(digits, **splits))
    with pytest.raises(FileNotFoundError, match=r"seed0\.pt"):
        dataclasses.replace(record, weights_path=tmp_path / "seed0.pt").classifier(digits)


@pytest.mark.parametrize("text", ["[]", "[1]", "3", "null", "{"])
def test_what_holds_no_object_is_left_out_by_name(finished, tmp_path, text):
    ledger.enter(runs.read(finished[0]), tmp_path)
    bad = tmp_path / "digits" / "preactresnet-small" / "mixup" / "seed1.json"
    bad.write_text(text)
    with pytest.warns(UserWarning, match=r"seed1.json (is no record|does not fit its checksum).*: left out"):
        assert [record.seed for record in ledger.collect(tmp_path)] == [0]


def without(content, part, name):
    return content | {part: {k: v for k, v in content[part].items() if k != name}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: without(c, "metrics", "nll"), "is incomplete: its metrics has no nll"),
        (lambda c: without(c, "environment", "commit"), "is incomplete: its environment has no commit"),
        (lambda c: without(c, "config", "digest"), "is incomplete: its config has no digest"),
        (lambda c: c | {"history": []}, "has no history"),
        (lambda c: {k: v for k, v in c.items() if k != "metrics"}, "has no metrics"),
        (lambda c: c | {"config": c["config"] | {"lr": 0.3}}, "has a configuration that does not fit its digest"),
        (lambda c: c | {"metrics": c["metrics"] | {"nll": None}}, "has metrics that are no numbers"),
        (lambda c: c | {"metrics": c["metrics"] | {"nll": math.nan}}, "has metrics that are no numbers"),
    ],
)
def test_what_is_no_whole_record_stays_out_of_tables(finished, tmp_path, change, message):
    folder, *_ = finished
    good, bad = (tmp_path / "digits" / "preactresnet-small" / name / "seed0.json" for name in ("mixup", "other"))
    bad.parent.mkdir(parents=True)
    ledger.enter(runs.read(folder), tmp_path)
    content = change({k: v for k, v in json.loads(good.read_text()).items() if k != "checksum"})
    bad.write_text(json.dumps(content | {"checksum": runs.checksum(content)}))  # an edit that minds the checksum
    with pytest.warns(UserWarning, match=rf"other/seed0.json {message}: left out"):
        (read,) = ledger.collect(tmp_path)
    assert read.variant == "mixup"


def test_record_in_another_cells_place_is_refused(finished, tmp_path):
    folder, *_ = finished
    with pytest.raises(ValueError, match=r"seed1.json was made with seed 0"):
        ledger.enter(dataclasses.replace(runs.read(folder), seed=1), tmp_path)
    assert not list(tmp_path.rglob("seed*"))


def test_machine_without_git_still_records(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment()["commit"] is None


def test_commit_says_where_files_differ_from_it(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)
    assert environment()["commit"] is None
    (tmp_path / "code.py").write_text("a = 1")
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True, text=True).stdout.strip()
    assert environment()["commit"] == head
    (tmp_path / "code.py").write_text("a = 2")
    assert environment()["commit"] == f"{head} with changes"


def test_table_has_a_row_a_record(finished):
    folder, *_, metrics, _ = finished
    (row,) = ledger.table([runs.read(folder)])
    assert row["variant"] == "mixup"
    assert row["accuracy"] == metrics["accuracy"]
    assert row["pgd_error"] == metrics["pgd_error"]
    assert not row.keys() & {"class_accuracy", "pgd_errors", "ood"}


def test_command_line_runs_one_cell(tmp_path, capsys):
    folder = tmp_path / "grid" / "digits" / "preactresnet-small" / "multimix-n10" / "seed0"
    main([f"folder={folder}", "method=multimix", "options={'num_mixtures': 10}", "epochs=1", "threads=1"])
    record = runs.read(folder)
    assert record.config["options"] == {"num_mixtures": 10}
    assert f"test accuracy {record.metrics['accuracy']:.2f} %" in capsys.readouterr().out


def test_pair_among_the_options_is_the_same_run_again(tmp_path, capsys):
    arguments = [
        f"folder={tmp_path / 'seed0'}",
        "method=multimix",
        "options={'alpha': (0.5, 2.0), 'num_mixtures': 5}",
        "epochs=1",
    ]
    for _ in range(2):  # in a file a tuple is a list
        main([*arguments, "threads=1", "attacked_per_class=0", "out_sets=[]"])
    first, second = capsys.readouterr().out.splitlines()
    assert first == second


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["methd=erm"], "methd is no parameter"),
        (["erm"], "erm is no parameter"),
        (["epochs=1"], "folder is missing"),
        (["folder={}", "epochs=0"], "epochs is 0"),
        (["folder={}", "dataset=cifar1O"], "dataset is 'cifar1O'"),
        (["folder={}", "threads=1.5"], "threads is 1.5; it takes int"),
    ],
)
def test_command_line_refuses_before_anything_is_written(tmp_path, arguments, message):
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match=message):
        main([argument.format(folder) for argument in arguments])
    assert not folder.exists()


def test_json_is_read_by_anybody(finished):
    folder, *_ = finished
    for path in folder.glob("*.json"):
        assert isinstance(json.loads(path.read_text(), parse_constant=pytest.fail), dict)
