"""Checkpoints that are cut short, foreign, or written while the run goes on or is killed."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from mmlib.experiments import runs
from mmlib.experiments.arguments import to_arguments
from mmlib.experiments.training.checkpoints import Checkpoints
from tests.helpers import assert_same_state

pytestmark = pytest.mark.faults


@pytest.fixture
def checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run")
    for epoch in (1, 2, 3):
        checkpoints.save({"epoch": epoch, "weights": torch.full((1000,), float(epoch))})
    checkpoints.wait()
    return checkpoints


def last(checkpoints):
    return checkpoints.paths[0]


def test_the_last_two_are_kept(checkpoints):
    assert sorted(path.name for path in last(checkpoints).parent.iterdir()) == [
        "checkpoint-previous.pt",
        "checkpoint.pt",
    ]
    assert checkpoints.load()["epoch"] == 3
    assert torch.load(checkpoints.paths[1], weights_only=True)["epoch"] == 2


@pytest.mark.parametrize("length", [0, 1, 100, 0.5, 0.99])
def test_one_cut_short_is_named_and_the_one_before_it_used(checkpoints, length):
    content = last(checkpoints).read_bytes()
    last(checkpoints).write_bytes(content[: length if isinstance(length, int) else int(length * len(content))])
    with pytest.warns(UserWarning, match=r"run/checkpoint.pt is not whole \(.+\): skipped"):
        assert checkpoints.load()["epoch"] == 2


@pytest.mark.parametrize("content", [b"hello", b"PK\x03\x04" + bytes(500)])
def test_a_file_that_is_not_a_checkpoint_is_named(checkpoints, content):
    last(checkpoints).write_bytes(content)
    with pytest.warns(UserWarning, match="checkpoint.pt is not whole"):
        assert checkpoints.load()["epoch"] == 2


def test_code_in_a_checkpoint_is_never_run(checkpoints):
    torch.save({"epoch": os.getpid}, last(checkpoints))  # a function by reference is enough
    with pytest.warns(UserWarning, match="not whole"):
        assert checkpoints.load()["epoch"] == 2


def test_one_that_holds_no_state_is_named(checkpoints):
    torch.save([1, 2], last(checkpoints))
    with pytest.warns(UserWarning, match="checkpoint.pt is not a checkpoint of a run"):
        assert checkpoints.load(lambda state: state.get("reason"))["epoch"] == 2


def test_an_error_in_the_check_of_a_state_is_not_taken_for_a_broken_file(checkpoints):
    def refuse(state):
        raise ValueError("device must be another")

    with pytest.raises(ValueError, match="device must be another"):
        checkpoints.load(refuse)


def test_killed_between_the_renames(checkpoints):
    last(checkpoints).replace(checkpoints.paths[1])
    assert checkpoints.load()["epoch"] == 3


def test_without_a_checkpoint_there_is_none(tmp_path):
    assert Checkpoints(tmp_path).load() is None
    nowhere = Checkpoints(None)
    nowhere.save({"epoch": 1})
    assert nowhere.load() is None


def contents(checkpoints):
    return {path.name: path.read_bytes() for path in last(checkpoints).parent.iterdir()}


def test_one_that_does_not_fit_is_passed_over_with_the_reason_and_moved_aside_by_the_next(checkpoints):
    before = contents(checkpoints)
    with pytest.warns(UserWarning, match=r"/checkpoint.pt is the third: skipped, and moved to checkpoint-of-another-"):
        state = checkpoints.load(lambda state: "is the third" if state["epoch"] == 3 else None)
    assert state["epoch"] == 2
    assert contents(checkpoints) == before  # other processes may still read it
    checkpoints.save({"epoch": 4})
    checkpoints.wait()
    after = contents(checkpoints)
    assert after["checkpoint-of-another-run.pt"] == before["checkpoint.pt"]
    assert after["checkpoint-previous.pt"] == before["checkpoint-previous.pt"]
    assert checkpoints.load()["epoch"] == 4


def test_where_none_fits_the_last_is_kept_however_long_the_training_goes_on(checkpoints):
    before = contents(checkpoints)
    with pytest.warns(UserWarning, match=r"/checkpoint.pt is old: skipped") as warned:
        assert checkpoints.load(lambda state: "is old") is None
    assert len(warned) == 1
    for epoch in (1, 2, 3):
        checkpoints.save({"epoch": epoch})
    checkpoints.wait()
    assert contents(checkpoints)["checkpoint-of-another-run.pt"] == before["checkpoint.pt"]
    assert len(contents(checkpoints)) == 3


def test_where_the_last_is_damaged_the_one_before_it_is_kept(checkpoints):
    before = contents(checkpoints)
    last(checkpoints).write_bytes(b"half")
    with pytest.warns(UserWarning, match=r"/checkpoint(-previous)?.pt is (old|not whole)"):
        assert checkpoints.load(lambda state: "is old") is None
    for epoch in (1, 2, 3):
        checkpoints.save({"epoch": epoch})
    checkpoints.wait()
    assert contents(checkpoints)["checkpoint-of-another-run.pt"] == before["checkpoint-previous.pt"]


def test_a_second_one_is_not_moved_over_the_first(checkpoints):
    kept = last(checkpoints).with_name("checkpoint-of-another-run.pt")
    kept.write_bytes(b"the first")
    before = contents(checkpoints)
    wanted = rf"^{kept} must be moved away or removed for the run to start anew: checkpoint\.pt is old, and would take"
    with pytest.raises(FileExistsError, match=wanted):
        checkpoints.load(lambda state: "is old")
    assert contents(checkpoints) == before
    kept.unlink()
    with pytest.warns(UserWarning, match="is old: skipped"):
        assert checkpoints.load(lambda state: "is old") is None


def test_what_is_saved_is_the_state_at_that_moment(tmp_path, monkeypatch):
    checkpoints, weights = Checkpoints(tmp_path), torch.zeros(3)
    write = checkpoints._write
    monkeypatch.setattr(checkpoints, "_write", lambda state: (time.sleep(0.2), write(state)))
    checkpoints.save({"weights": weights, "nested": [{"weights": weights}], "options": {"alpha": (0.5, 2.0)}})
    weights += 1  # training goes on while the file is written
    state = checkpoints.load()
    assert state["options"] == {"alpha": (0.5, 2.0)}  # still a pair: what a run is compared by
    assert state["weights"].tolist() == state["nested"][0]["weights"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("file write failed")])
def test_a_full_disk_leaves_the_one_before_and_is_reported(checkpoints, monkeypatch, error):
    def fails(state, path):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(torch, "save", fails)
    checkpoints.save({"epoch": 4})
    with pytest.raises(OSError, match=r"checkpoint.pt could not be written: .*(No space|file write failed)"):
        checkpoints.wait()
    assert sorted(path.name for path in last(checkpoints).parent.iterdir()) == [
        "checkpoint-previous.pt",
        "checkpoint.pt",
    ]
    monkeypatch.undo()
    assert Checkpoints(last(checkpoints).parent).load()["epoch"] == 3


def test_one_process_at_a_time(tmp_path, monkeypatch):
    words = rf"folder {tmp_path} is in use: another process trains there"
    with Checkpoints(tmp_path), pytest.raises(OSError, match=words), Checkpoints(tmp_path):
        pytest.fail("two at once")
    with Checkpoints(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


EPOCHS = 60
KILLS = int(os.environ.get("KILLS", "4"))  # make test-faults takes 20


def kill_in_evaluation(command, environment, folder):
    """Run to the end of training and kill what follows it: the last checkpoint is there, the metrics are not."""
    run = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while run.poll() is None:
        state = Checkpoints(folder).load()
        if state and len(state["history"]) == EPOCHS:
            break
        time.sleep(0.02)
    time.sleep(0.3)
    run.kill()
    assert run.wait() == -signal.SIGKILL
    assert not (folder / "metrics.json").exists()


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_bit_identical(tmp_path):
    """One uninterrupted run against one that SIGKILL meets wherever it happens to be, and once in evaluation."""
    settings = {"dataset": "digits", "method": "multimix_distill", "threads": 1, "epochs": EPOCHS}
    command = [sys.executable, "-m", "mmlib.experiments", *to_arguments(settings), "--folder"]
    quiet = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    folders = [tmp_path / name / "digits" / "net" / "multimix_distill" / "seed0" for name in ("whole", "killed")]
    subprocess.run([*command, str(folders[0])], check=True, capture_output=True, env=quiet)
    first, end = ((folders[0] / name).stat().st_mtime for name in ("checkpoint-previous.pt", "metrics.json"))
    kills, halves, checkpoint = 0, 0, folders[1] / "checkpoint.pt"
    # So long after a run's first checkpoint that all of them together pass through training and evaluation once.
    for delay in np.random.default_rng(0).uniform(0, 2 * (end - first) / KILLS, KILLS):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        run = subprocess.Popen(
            [*command, str(folders[1]), "--checkpoint-minutes", "0"],
            env=quiet,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while run.poll() is None and not (checkpoint.exists() and checkpoint.stat().st_mtime_ns > before):
            time.sleep(0.005)
        time.sleep(delay)
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            kills += 1
        run.wait()
        halves += (folders[1] / "checkpoint.pt.partial").exists()
        if run.returncode == 0:  # it has ended: from the start, and killed elsewhere
            shutil.rmtree(folders[1])
    kill_in_evaluation([*command, str(folders[1])], quiet, folders[1])
    subprocess.run([*command, str(folders[1])], check=True, capture_output=True, env=quiet)
    print(f"{kills} of {KILLS} runs killed, {halves} of them while a checkpoint was written; and one in evaluation")
    assert kills >= 0.7 * KILLS
    whole, killed = (runs.load_run(folder) for folder in folders)
    assert killed.metrics == whole.metrics
    assert [row["loss"] for row in killed.history] == [row["loss"] for row in whole.history]
    states = [Checkpoints(folder).load() for folder in folders]
    assert_same_state(states[1]["method"], states[0]["method"])
    torch.testing.assert_close(states[1]["optimizer"], states[0]["optimizer"], rtol=0, atol=0)
