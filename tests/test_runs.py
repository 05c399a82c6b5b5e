"""The run folder's contract, the ledger, and the command that makes a run."""

import ast
import dataclasses
import json
import math
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from mmbook import ledger
from mmbook.grids import Cell
from mmlib.experiments import data, provenance, runs
from mmlib.experiments.__main__ import RuntimeOptions, main, parse
from mmlib.experiments.arguments import to_arguments
from mmlib.experiments.evaluation.suite import evaluate
from mmlib.experiments.provenance import environment
from mmlib.experiments.runs import writer
from mmlib.experiments.training.checkpoints import Checkpoints
from mmlib.experiments.training.config import Config, result_config
from mmlib.experiments.training.resume import STATE
from mmlib.experiments.training.trainer import Trainer, train
from tools.results import results_table


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def finished(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "grid" / "digits" / "preactresnet-small" / "mixup" / "seed0"
    config = Config(method="mixup", epochs=3)
    run = runs.load_or_train(config, digits, folder)
    metrics, predictions = evaluate(run.classifier, digits)
    runs.save_run(folder, run, metrics, predictions)
    return folder, config, run, metrics, predictions


def test_a_folder_may_be_text(finished, digits, tmp_path):
    folder, config, *result = finished
    assert runs.load_run(str(folder)) == runs.load_run(folder)
    assert runs.load_or_train(config, digits, str(folder)).history == result[0].history
    assert runs.load_weights(str(folder / "checkpoint.pt")).keys() == result[0].classifier.state_dict().keys()
    runs.save_run(str(tmp_path / "new"), *result)
    assert runs.read_json(tmp_path / "new" / "metrics.json") == runs.read_json(folder / "metrics.json")
    trainer = train(Config(method="erm", epochs=1), digits, folder=str(tmp_path / "trained"))
    assert (tmp_path / "trained" / "checkpoint.pt").exists()
    assert len(trainer.history) == 1


def test_record_is_what_was_written(finished, digits):
    folder, _, run, metrics, predictions = finished
    record = ledger.load_folder(folder)
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


def test_a_run_is_read_under_any_name_and_has_a_place_only_where_its_path_says_one(finished, digits, tmp_path):
    """Without the place nobody knows of which variant it is: its method alone does not say it."""
    folder = shutil.copytree(finished[0], tmp_path / "runs" / "try")
    run = runs.load_run(folder)
    assert run.metrics == finished[3]
    assert run.config["method"] == "mixup"
    assert run.classifier(digits).state_dict().keys() == finished[2].classifier.state_dict().keys()
    assert not hasattr(run, "variant")
    words = r"path must end in <dataset>/<model>/<variant>/seed<k>, got '.*runs/try'"
    with pytest.raises(ValueError, match=words):
        ledger.load_folder(folder)
    found, rejected = ledger.find_runs(tmp_path)
    assert found == []
    assert len(rejected) == 1
    assert "path must end in" in rejected[0]


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
    with pytest.warns(UserWarning, match="made with epochs 3, not 1: skipped"):
        other = runs.load_or_train(dataclasses.replace(config, epochs=1), digits, tmp_path)
    assert len(other.history) == 1


def test_metrics_come_last(finished, tmp_path, monkeypatch):
    *_, run, metrics, predictions = finished
    written = []
    write = runs.write_atomic
    record = lambda path, content: (written.append(path.name), write(path, content))  # noqa: E731
    monkeypatch.setattr(writer, "write_atomic", record)
    monkeypatch.setattr(runs.files, "write_atomic", record)
    runs.save_run(tmp_path, run, metrics, predictions)
    assert written[-1] == "metrics.json"
    assert sorted(written) == ["config.json", "embeddings.npz", "environment.json", "history.csv", "metrics.json"]


def test_folders_without_metrics_are_not_read(finished, tmp_path):
    folder, *_ = finished
    unfinished = tmp_path / "digits" / "preactresnet-small" / "mixup" / "seed0"
    unfinished.mkdir(parents=True)
    for name in ("config.json", "history.csv", "environment.json"):
        (unfinished / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(FileNotFoundError, match=r"results must hold a finished run, got "):
        ledger.collect(tmp_path)
    assert len(ledger.collect(folder.parents[3])) == 1


def digest(config, dataset):
    return runs.checksum(result_config(config, dataset))


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
    record = ledger.load_folder(folder)
    ledger.add(record, tmp_path, weights=True)
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
    with pytest.raises(ValueError, match=r"seed0.json does not match its checksum: it was edited by hand"):
        ledger.load_record(path)


def test_ledger_holds_a_history_by_columns_or_rows_and_no_embeddings_that_a_grid_does_without(finished, tmp_path):
    folder, *_ = finished
    record = ledger.load_folder(folder)
    ledger.add(record, tmp_path, embeddings=False)
    (path,) = (path for path in tmp_path.rglob("seed*"))
    content = json.loads(path.read_text())
    assert content["history"]["loss"] == [row["loss"] for row in record.history]
    assert ledger.load_record(path).history == record.history
    content = {k: v for k, v in content.items() if k != "checksum"} | {"history": record.history}
    path.write_text(json.dumps(content | {"checksum": runs.checksum(content)}))  # as before there were columns
    assert ledger.load_record(path).history == record.history
    content["history"] = {"epoch": [1, 2], "loss": [0.5]}
    path.write_text(json.dumps(content | {"checksum": runs.checksum(content)}))
    with pytest.raises(ValueError, match=r"seed0.json has a history that is not columns of one length"):
        ledger.load_record(path)


def test_a_record_gives_its_network_back(finished, digits):
    folder, _, run, _, predictions = finished
    classifier = runs.load_run(folder).classifier(data.load("digits", seed=3))
    torch.testing.assert_close(classifier.state_dict(), run.classifier.state_dict(), rtol=0, atol=0)
    assert not classifier.training
    images = digits.test.images[:50].float() / 255
    torch.testing.assert_close(classifier(images), predictions.logits[:50])


def test_a_network_of_another_data_set_class_count_or_model_is_refused_by_name(finished, digits, tmp_path):
    folder, *_ = finished
    record = runs.load_run(folder)
    with pytest.raises(ValueError, match=r"dataset must be digits for .*seed0/checkpoint\.pt, got pets"):
        record.classifier(dataclasses.replace(digits, name="pets"))
    with pytest.raises(
        ValueError,
        match=r"small for the images and 11 classes of digits, got 10 classes; size mis",
    ):
        record.classifier(dataclasses.replace(digits, class_names=(*digits.class_names, "ten")))
    other = dataclasses.replace(record, config=record.config | {"model": "vit-tiny"})
    words = r"checkpoint.pt must hold the weights of vit-tiny for .*, got 10 classes; Missing key.*encoder.0"
    with pytest.raises(ValueError, match=words):
        other.classifier(digits)
    splits = {
        name: data.Split(split.images.expand(-1, 3, -1, -1), split.labels) for name, split in digits.splits().items()
    }
    words = r"weights of preactresnet-small for .*; size mismatch for mean: .*1, 1, 1.*3, 1, 1"
    with pytest.raises(ValueError, match=words):
        record.classifier(dataclasses.replace(digits, **splits))
    with pytest.raises(FileNotFoundError, match=r"seed0\.pt"):
        dataclasses.replace(record, weights_path=tmp_path / "seed0.pt").classifier(digits)


@pytest.mark.parametrize("text", ["[]", "[1]", "3", "null", "{"])
def test_what_holds_no_object_is_left_out_by_name(finished, tmp_path, text):
    ledger.add(ledger.load_folder(finished[0]), tmp_path)
    bad = tmp_path / "digits" / "preactresnet-small" / "mixup" / "seed1.json"
    bad.write_text(text)
    with pytest.warns(UserWarning, match=r"seed1.json (is not a record|does not match its checksum).*: left out"):
        assert [record.seed for record in ledger.collect(tmp_path)] == [0]


def without(content, part, name):
    return content | {part: {k: v for k, v in content[part].items() if k != name}}


def with_method(content, method):
    config = {k: v for k, v in content["config"].items() if k != "digest"} | {"method": method}
    return content | {"config": config | {"digest": runs.checksum(config)}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: without(c, "metrics", "nll"), "is incomplete: its metrics has no nll"),
        (lambda c: without(c, "environment", "commit"), "is incomplete: its environment has no commit"),
        (lambda c: without(c, "config", "digest"), "is incomplete: its config has no digest"),
        (lambda c: c | {"history": []}, "has no history"),
        (lambda c: {k: v for k, v in c.items() if k != "metrics"}, "has no metrics"),
        (lambda c: c | {"config": c["config"] | {"lr": 0.3}}, "has a configuration that does not match its digest"),
        (
            lambda c: c | {"metrics": c["metrics"] | {"nll": None}},
            "is no record: nll in its metrics must be a finite number, got None",
        ),
        (
            lambda c: c | {"metrics": c["metrics"] | {"nll": math.nan}},
            "is no record: nll in its metrics must be a finite number, got nan",
        ),
        (
            lambda c: c | {"metrics": c["metrics"] | {"accuracy": True}},
            "is no record: accuracy in its metrics must be a finite number, got True",
        ),
        (
            lambda c: c | {"history": c["history"] | {"lr": 3}},
            "has a history that is not columns of one length",
        ),
        (lambda c: with_method(c, "new"), "has a method that this version does not know, 'new'"),
    ],
)
def test_what_is_no_whole_record_stays_out_of_tables(finished, tmp_path, change, message):
    folder, *_ = finished
    good, bad = (tmp_path / "digits" / "preactresnet-small" / name / "seed0.json" for name in ("mixup", "other"))
    bad.parent.mkdir(parents=True)
    ledger.add(ledger.load_folder(folder), tmp_path)
    content = change({k: v for k, v in json.loads(good.read_text()).items() if k != "checksum"})
    bad.write_text(json.dumps(content | {"checksum": runs.checksum(content)}))  # an edit that minds the checksum
    with pytest.warns(UserWarning, match=rf"other/seed0.json {message}: left out"):
        (read,) = ledger.collect(tmp_path)
    assert read.variant == "mixup"


def test_record_in_another_cells_place_is_refused(finished, tmp_path):
    folder, *_ = finished
    with pytest.raises(ValueError, match=r"seed1.json was made with seed 0"):
        ledger.add(dataclasses.replace(ledger.load_folder(folder), seed=1), tmp_path)
    assert not list(tmp_path.rglob("seed*"))


def test_machine_without_git_still_records(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment()["commit"] is None


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A package in a repository, its folder one below the repository's."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "code.py").write_text("a = 1")
    (tmp_path / ".gitignore").write_text("__pycache__\n")
    monkeypatch.setattr(provenance, "PACKAGE", package)
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return package


def test_commit_says_where_files_differ_from_it(clone):
    command = ["git", "rev-parse", "HEAD"]
    head = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=True).stdout.strip()
    assert environment()["commit"] == head
    (clone / "code.py").write_text("a = 2")
    assert environment()["commit"] == f"{head} with changes"


def test_a_repository_around_an_installed_package_is_not_its_commit(clone, monkeypatch):
    installed = clone.parent / "environment" / "site-packages" / "mmlib"
    installed.mkdir(parents=True)
    (installed / "__init__.py").touch()
    monkeypatch.setattr(provenance, "PACKAGE", installed)
    assert environment()["commit"] is None


def digest_of_code():
    provenance.code_digest.cache_clear()
    try:
        return provenance.code_digest()
    finally:
        provenance.code_digest.cache_clear()


def test_digest_of_code_counts_tracked_modules_and_their_meaning(clone):
    first = digest_of_code()
    (clone / "code.py").write_text('"""Words."""\na  =  1  # λ\n', encoding="utf-8")
    (clone / "__pycache__").mkdir()
    (clone / "__pycache__" / "code.nbi").write_bytes(b"\xff cache")
    (clone / "__pycache__" / "code.py").write_text("a = 3")
    (clone / "scratch.py").write_text("a = 4")
    assert digest_of_code() == first
    (clone / "code.py").write_text("a = 2")
    assert digest_of_code() != first


def test_digest_of_code_is_the_same_without_git(clone, monkeypatch):
    first = digest_of_code()
    monkeypatch.setenv("PATH", "")
    assert digest_of_code() == first


def test_what_the_digest_of_code_excludes_is_there():
    assert all((provenance.PACKAGE / name).is_file() for name in provenance.EXCLUDED_FROM_DIGEST)


READS = {"read_text", "write_text", "open"}


def test_every_text_file_names_its_encoding():
    """The locale's, which Python takes otherwise, is no UTF-8 on Windows and under C."""
    root = provenance.PACKAGE.parent
    for path in (path for name in ("mmlib", "mmbook", "tools", "benchmarks") for path in root.glob(f"{name}/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            named = {keyword.arg for keyword in node.keywords}
            module = getattr(node.func.value, "id", "")
            if node.func.attr in READS and module not in ("os", "Image", "Picture"):
                assert "encoding" in named, f"{path}:{node.lineno}"
            if node.func.attr in ("run", "Popen") and "text" in named:
                assert "encoding" in named, f"{path}:{node.lineno}"


@pytest.mark.slow
def test_sources_grids_and_records_are_read_whatever_the_locale(finished, tmp_path):
    folder, *_ = finished
    record = ledger.load_folder(folder)
    ledger.add(dataclasses.replace(record, environment=record.environment | {"device": "\u03b1"}), tmp_path / "ledger")
    path = tmp_path / "ledger" / "digits" / "preactresnet-small" / "mixup" / "seed0.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    words = """
        import locale, sys
        from pathlib import Path
        assert locale.getpreferredencoding(False).lower() not in ("utf-8", "utf8")
        from mmbook import grids, ledger
        from mmlib.experiments import provenance
        assert grids.load_grids()
        (record,) = ledger.collect(Path(sys.argv[1]))
        print(ascii(record.environment["device"]), provenance.code_digest())
    """
    plain = {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(provenance.PACKAGE.parent)}
    command = [sys.executable, "-c", textwrap.dedent(words), str(tmp_path / "ledger")]
    done = subprocess.run(
        command, env=os.environ | plain, cwd=provenance.PACKAGE.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["'\\u03b1'", provenance.code_digest()]


def test_environment_names_the_device_that_was_used(monkeypatch):
    names = {"cuda": "First", "cuda:1": "Second"}
    monkeypatch.setattr(torch.cuda, "get_device_name", names.__getitem__)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(provenance, "_driver", lambda: "580.1")
    of_gpu = environment("cuda:1")
    expected = {"device": "Second", "device_type": "cuda", "cuda": "13.0", "cudnn": 91002, "driver": "580.1"}
    assert of_gpu.items() >= expected.items()
    assert isinstance(of_gpu["tf32"], bool)
    assert environment().keys() == of_gpu.keys()


def test_table_has_a_row_a_record(finished):
    folder, *_, metrics, _ = finished
    (row,) = ledger.table([ledger.load_folder(folder)])
    assert row["variant"] == "mixup"
    assert row["accuracy"] == metrics["accuracy"]
    assert row["pgd_error"] == metrics["pgd_error"]
    assert not row.keys() & {"class_accuracy", "pgd_errors", "ood"}


def test_command_line_runs_one_cell(tmp_path, capsys):
    folder = tmp_path / "grid" / "digits" / "preactresnet-small" / "multimix-n10" / "seed0"
    command = {"folder": str(folder), "method": "multimix", "options": {"num_mixtures": 10}, "epochs": 1, "threads": 1}
    main(to_arguments(command))
    record = runs.load_run(folder)
    assert record.config["options"] == {"num_mixtures": 10}
    assert f"test accuracy {record.metrics['accuracy']:.2f} %" in capsys.readouterr().out
    expected = {"device_type": "cpu", "threads": 1, "processes": 1, "workers": 0, "compile": False, "cuda": None}
    assert record.environment.items() >= expected.items()
    assert record.environment["instruction_set"] in record.environment["device"]
    assert record.environment["steps"] == 2


def test_a_pair_among_the_options_is_the_same_run_again(finished, digits, tmp_path):
    *_, metrics, predictions = finished
    config = Config(method="multimix", options={"alpha": (0.5, 2.0), "num_mixtures": 5}, epochs=1)
    trained = runs.load_or_train(config, digits, tmp_path)
    runs.save_run(tmp_path, trained, metrics, predictions)
    again = runs.load_or_train(config, digits, tmp_path)  # in a file a tuple is a list
    assert again.history == trained.history


def test_progress_leaves_two_lines_in_a_log_of_a_short_run(tmp_path):
    command = {"folder": str(tmp_path / "run"), "epochs": 30, "threads": 1, "attacked_per_class": 0, "out_sets": []}
    done = subprocess.run(
        [sys.executable, "-m", "mmlib.experiments", *to_arguments(command)],
        env={name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"},
        cwd=provenance.PACKAGE.parent,
        capture_output=True,
        check=True,
        text=True,
        encoding="utf-8",
    )
    first, last = (line for line in done.stderr.split("\n") if line)  # read as text, where \r is \n
    assert "0/30" in first
    assert "30/30" in last


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methd", "erm"], "unrecognized arguments: --methd erm; did you mean --method?"),
        (["erm"], "unrecognized arguments: erm"),
        (["--epoch", "1"], "unrecognized arguments: --epoch 1; did you mean --epochs?"),
        (["--epoch=1"], "unrecognized arguments: --epoch=1; did you mean --epochs?"),
        (["--method", "multimx"], "got 'multimx'; did you mean multimix?"),
        (["--options", '{"n_mixtures": 3}'], "got 'n_mixtures'; did you mean num_mixtures?"),
        (["--epochs", "0"], "epochs must be an integer >= 1, got 0"),
        (["--epochs", "1.5"], "argument --epochs: must be int, got '1.5'"),
        (["--lr", "fast"], "argument --lr: must be float, got 'fast'"),
        (["--options", "{'n': 3}"], "argument --options: must be dict in JSON, got"),
        (["--out-sets", "uniform"], "argument --out-sets: must be list in JSON, got 'uniform'"),
        (["--out-sets", "[3]"], r"out_sets must be a list of names, got [3]"),
        (["--options", "[3]"], "argument --options: must be dict in JSON, got '[3]'"),
        (["--compile", "yes"], "argument --compile: must be true or false, got 'yes'"),
        (["--threads", "1.5"], "argument --threads: must be int or None, got '1.5'"),
        (["--folder", ""], "folder must be the path of a folder, got ''"),
        (["--threads", "0"], "threads must be an integer >= 1, got 0"),
        (["--threads", "100000"], "threads must be a number from 1 to"),
        (["--workers", "-1"], "workers must be an integer >= 0, got -1"),
        (["--device", "gpu"], "device must be 'cpu', 'cuda' or 'cuda:<index>', got 'gpu'"),
        (["--attacked-per-class", "-1"], "attacked_per_class must be an integer >= 0, got -1"),
        (["--checkpoint-epochs", "-1"], "checkpoint_epochs must be an integer >= 1, got -1"),
        (["--checkpoint-minutes", "nan"], "checkpoint_minutes must be a finite number >= 0, got nan"),
        (["--max-minutes", "nan"], "max_minutes must be a finite number, got nan"),
        (["--max-minutes", "inf"], "max_minutes must be a finite number, got inf"),
    ],
)
def test_command_line_refuses_in_one_line_before_anything_is_written(tmp_path, capsys, arguments, message):
    folder = tmp_path / "run"
    with pytest.raises(SystemExit) as stopped:
        main(["--folder", str(folder), *arguments])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not folder.exists()


def test_command_line_needs_a_folder(capsys):
    with pytest.raises(SystemExit):
        main(["--epochs", "1"])
    assert "the following arguments are required: --folder" in capsys.readouterr().err


def test_a_data_set_that_is_not_there_ends_before_training(tmp_path):
    with pytest.raises(ValueError, match=r"got 'cifar1O'; did you mean cifar10\?"):
        main(["--folder", str(tmp_path / "run"), "--dataset", "cifar1O"])
    assert not (tmp_path / "run").exists()


def test_command_line_explains_every_setting(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    words = " ".join(capsys.readouterr().out.split())
    for settings in (Config, RuntimeOptions):
        for field in dataclasses.fields(settings):
            after = words.split(f" --{field.name.replace('_', '-')} ")[-1].split(" ", 1)[1]
            assert not after.startswith(("--", "(default")), field.name
    assert "increasing fractions of the epochs, for `steps` alone. (default: [0.25, 0.5, 0.75])" in words


def test_arguments_of_a_command_line_are_read_back():
    options = {"alpha": [0.5, 2.0], "num_mixtures": 10}
    config = Config(options=options, lr=1e-05, batch_size=None, size=8, schedule="steps", milestones=[0.5])
    given = RuntimeOptions(folder="a folder", compile=True, out_sets=[], max_minutes=0.5, threads=None)
    assert parse(to_arguments(vars(given) | vars(config))) == (config, given)
    assert parse(["--folder", "x", "--compile"])[1].compile
    assert not parse(["--folder", "x", "--compile", "false"])[1].compile
    assert parse(["--folder", "x", "--batch-size", "null"])[0].batch_size is None


def test_json_is_read_by_anybody(finished, tmp_path):
    folder, _, run, metrics, predictions = finished
    for path in folder.glob("*.json"):
        assert isinstance(json.loads(path.read_text(), parse_constant=pytest.fail), dict)
    broken = metrics | {"nll": math.nan, "pgd_errors": [1.0, math.inf], "ood": {"uniform": {"energy": -math.inf}}}
    path = tmp_path / "digits" / "net" / "mixup" / "seed0"
    runs.save_run(path, run, broken, predictions)
    json.loads((path / "metrics.json").read_text(), parse_constant=pytest.fail)
    read = runs.load_run(path).metrics
    assert (read["nll"], read["pgd_errors"], read["ood"]) == (None, [1.0, None], {"uniform": {"energy": None}})


def test_a_run_finished_on_a_gpu_is_read_here(finished, digits, tmp_path):
    folder, config, run, *_ = finished
    shutil.copytree(folder, tmp_path / "seed0")
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    of_gpu = torch.zeros(16, dtype=torch.uint8)  # as long as the state of a GPU's generator
    state["method"]["_extra_state"]["generator"] = state["processes"][0]["generator"] = of_gpu
    state |= {"device_type": "cuda", "order_generator": of_gpu, "augmentation_generator": of_gpu}
    torch.save(state, tmp_path / "seed0" / "checkpoint.pt")
    again = runs.load_or_train(config, digits, tmp_path / "seed0")
    torch.testing.assert_close(again.classifier.state_dict(), run.classifier.state_dict(), rtol=0, atol=0)
    assert again.history == run.history
    assert not again.classifier.training


def test_memory_recorded_is_that_of_training(finished, tmp_path, monkeypatch):
    *_, run, metrics, predictions = finished
    assert run.peak_memory_mib > 0
    monkeypatch.setattr(run, "peak_memory_mib", 7.5)
    runs.save_run(tmp_path, run, metrics, predictions)
    assert json.loads((tmp_path / "environment.json").read_text())["peak_memory_mib"] == 7.5


def test_weights_alone_are_read_as_those_of_a_checkpoint(finished, tmp_path):
    *_, run, _, _ = finished
    runs.write_weights(tmp_path / "weights.pt", run.classifier.state_dict())
    read = runs.load_weights(tmp_path / "weights.pt")
    torch.testing.assert_close(read, dict(run.classifier.state_dict()), rtol=0, atol=0)


CLIMBING = ["..", "../elsewhere", "/elsewhere", "a/b", ""]


@pytest.mark.parametrize("name", CLIMBING)
@pytest.mark.parametrize("place", ["dataset", "model", "variant"])
def test_no_name_leads_out_of_the_folder_of_a_grid(name, place):
    names = {"dataset": "digits", "model": "net", "variant": "mixup", "seed": 0} | {place: name}
    with pytest.raises(ValueError, match=f"{place} must be the name of a folder in the path of a run, got '{name}'"):
        runs.run_path(**names)
    cell = Cell("grid", names["dataset"], names["variant"], 0, {"model": names["model"]})
    with pytest.raises(ValueError, match=f"{place} must be the name of a folder"):
        _ = cell.path


def test_a_record_is_added_below_its_ledger_alone(finished, tmp_path):
    folder, *_ = finished
    record = dataclasses.replace(ledger.load_folder(folder), variant="..")
    with pytest.raises(ValueError, match=r"variant must be the name of a folder in the path of a run, got '\.\.'"):
        ledger.add(record, tmp_path / "ledger")
    with pytest.raises(ValueError, match=r"variant must be the name of a folder"):
        runs.parse_run_path(folder.parent / ".." / "seed0")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run, to be damaged."""
    return shutil.copytree(finished[0], tmp_path / "digits" / "preactresnet-small" / "mixup" / "seed0")


@pytest.mark.faults
@pytest.mark.parametrize("name", ["config.json", "metrics.json", "environment.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"[]", b"3", b"\xff\xfe", b"{}{}"])
def test_a_damaged_file_of_a_run_is_named_in_one_line(copied, name, content):
    (copied / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} must hold a JSON object, and cannot be read: ") as caught:
        runs.load_run(copied)
    assert "\n" not in str(caught.value)


@pytest.mark.faults
@pytest.mark.parametrize("content", [b"epoch,loss\n1,many\n", b"epoch,loss\n1,2,3\n", b"epoch\n\xff\n"])
def test_a_damaged_history_is_named_in_one_line(copied, content):
    (copied / "history.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"history\.csv must hold a row of numbers for each epoch"):
        runs.load_run(copied)


class Payload:
    """An object whose unpickling makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.faults
@pytest.mark.parametrize("form", ["object array", "plain pickle"])
def test_code_in_embeddings_is_never_run(copied, tmp_path, form):
    payload, path = Payload(tmp_path / "run"), copied / "embeddings.npz"
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(payload))
    else:
        np.savez(path, embeddings=np.array([payload], dtype=object))
    with pytest.raises(ValueError, match=r"embeddings\.npz must be an \.npz archive of arrays, and cannot be read"):
        runs.load_run(copied).embeddings()
    assert not payload.path.exists()


@pytest.mark.faults
@pytest.mark.parametrize("form", ["checkpoint", "plain pickle"])
def test_code_in_weights_is_never_run(copied, digits, tmp_path, form):
    payload, path = Payload(tmp_path / "run"), copied / "checkpoint.pt"
    (copied / "checkpoint-previous.pt").unlink()
    if form == "plain pickle":
        path.write_bytes(pickle.dumps({"method": payload}, protocol=2))
    else:
        torch.save({"method": {"classifier.mean": payload}}, path)
    with pytest.raises(ValueError, match=r"checkpoint\.pt must hold the weights of a network: ") as caught:
        runs.load_run(copied).classifier(digits)
    assert "\n" not in str(caught.value)
    with pytest.warns(UserWarning, match=r"checkpoint\.pt is not whole"):
        assert Checkpoints(copied).load() is None
    assert not payload.path.exists()


@pytest.mark.faults
@pytest.mark.parametrize("state", [{"epoch": 3}, {"method": 3}, {"method": None, "history": []}])
def test_what_holds_no_weights_is_named(copied, digits, state):
    torch.save(state, copied / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"checkpoint\.pt must hold the weights of a network: "):
        runs.load_run(copied).classifier(digits)


@pytest.fixture
def unfinished(finished, tmp_path):
    """A function that puts a changed state of the run into a folder without metrics."""
    state = torch.load(finished[0] / "checkpoint.pt", weights_only=True)

    def put(**changes):
        torch.save({name: v for name, v in (state | changes).items() if v is not ABSENT}, tmp_path / "checkpoint.pt")
        return tmp_path

    return put


ABSENT = object()


def test_every_part_of_a_state_is_known(finished):
    assert finished[2].state().keys() == set(STATE)


@pytest.mark.faults
@pytest.mark.parametrize("name", sorted(set(STATE) - {"resume_identity"}))
def test_half_a_state_is_passed_over_with_what_it_lacks(finished, digits, unfinished, name):
    folder = unfinished(**{name: ABSENT})
    with pytest.warns(UserWarning, match=rf"checkpoint\.pt is not whole \(it has no {name}\): skipped"):
        again = runs.load_or_train(finished[1], digits, folder)
    assert [row["loss"] for row in again.history] == [row["loss"] for row in finished[2].history]  # from the start


@pytest.mark.faults
@pytest.mark.parametrize(
    "changes",
    [
        {"method": {}},
        {"method": 3},
        {"optimizer": {}},
        {"processes": []},
        {"processes": [{}]},
        {"history": 3},
        {"history": [3, 4]},
        {"order_generator": torch.zeros(3, dtype=torch.uint8)},
    ],
)
def test_a_damaged_state_ends_in_one_line_and_is_left_as_it_is(finished, digits, unfinished, changes):
    folder = unfinished(**changes)
    before = (folder / "checkpoint.pt").read_bytes()
    with pytest.raises(
        ValueError, match="folder must hold a whole checkpoint, got a damaged one to remove: "
    ) as caught:
        runs.load_or_train(finished[1], digits, folder)
    assert "\n" not in str(caught.value)
    assert (folder / "checkpoint.pt").read_bytes() == before


@pytest.mark.faults
def test_a_damaged_state_of_a_finished_run_ends_in_one_line(finished, digits, copied):
    state = torch.load(copied / "checkpoint.pt", weights_only=True)
    torch.save(state | {"method": {}}, copied / "checkpoint.pt")
    with pytest.raises(ValueError, match="folder must hold a whole checkpoint, got a damaged one to remove: "):
        runs.load_or_train(finished[1], digits, copied)


def test_a_checkpoint_of_a_later_version_is_passed_over_by_name(finished, digits, unfinished):
    """Its code is another, and what it has beyond ours is not looked at."""
    identity = result_config(finished[1], digits) | {"code": "f" * 16, "processes": 1, "invention": 3}
    folder = unfinished(resume_identity=identity, invention={"n": 1})
    with pytest.warns(UserWarning, match=r"checkpoint\.pt was made with code 'f{16}', not '[0-9a-f]{16}': skipped"):
        again = runs.load_or_train(finished[1], digits, folder)
    assert [row["loss"] for row in again.history] == [row["loss"] for row in finished[2].history]


def test_a_run_without_attacks_is_recorded(finished, tmp_path):
    folder, *_ = finished
    record = ledger.load_folder(folder)
    none = {"fgsm_error": None, "pgd_error": None, "pgd_errors": None, "attacked_images": 0}
    ledger.add(dataclasses.replace(record, metrics=record.metrics | none), tmp_path)
    (read,) = ledger.collect(tmp_path)
    assert read.metrics["pgd_error"] is None
    (row,) = ledger.table([read])
    assert row["fgsm_error"] is None
    assert row["accuracy"] == record.metrics["accuracy"]


def test_a_run_with_one_test_image_is_recorded(finished, digits, tmp_path):
    """No two images are there, of a class or of two, whose distance could be measured."""
    folder, _, run, *_ = finished
    metrics, _ = evaluate(run.classifier, dataclasses.replace(digits, test=digits.test[:1]), out_sets=())
    undefined = {name for name in ledger.SCALARS if metrics[name] is None}
    assert undefined == {"alignment", "uniformity", "class_mean_cosine"}
    ledger.add(dataclasses.replace(ledger.load_folder(folder), metrics=metrics), tmp_path)
    (row,) = ledger.table(ledger.collect(tmp_path))
    assert row["uniformity"] is None
    assert row["accuracy"] == metrics["accuracy"]
    assert "| 1 |" in results_table(ledger.collect(tmp_path))


@pytest.mark.slow
def test_seeds_that_differ_by_a_power_of_two_are_different_runs(digits):
    """torch's generator of the CPU heeds 32 bits of a seed."""
    trainers = [Trainer(Config(method="mixup", seed=seed), digits) for seed in (5, 5 + 2**32, 5 + 2**64)]
    for draw in (
        lambda trainer: trainer.classifier.state_dict()["encoder.0.weight"].sum().item(),
        lambda trainer: next(iter(trainer.batches))[1].tolist(),
        lambda trainer: trainer.method.cpu_generator.get_state().tolist(),
    ):
        assert len({str(draw(trainer)) for trainer in trainers}) == 3
    for dataset in ("digits", "shapes"):
        sets = [data.load(dataset, labelled_per_class=2, seed=seed).train.fingerprint() for seed in (5, 5 + 2**32)]
        assert sets[0] != sets[1]


@pytest.mark.parametrize("path", ["digits/net/mixup/3", "digits/net/mixup/seed", "digits/net/mixup/seedx.json"])
def test_a_path_of_another_form_is_refused(path):
    with pytest.raises(ValueError, match=r"path must end in <dataset>/<model>/<variant>/seed<k>, got"):
        runs.parse_run_path(Path(path))


def test_a_variant_may_have_a_dot_in_its_name():
    expected = {"dataset": "digits", "model": "net", "variant": "lr0.1", "seed": 12}
    assert runs.parse_run_path(Path("digits/net/lr0.1/seed12")) == expected
    assert runs.parse_run_path(Path("digits/net/lr0.1/seed12.json")) == expected
