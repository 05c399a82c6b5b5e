"""The progress of cells from what they leave behind, and the time that the rest takes from what was recorded."""

from pathlib import Path

import pytest

from mmbook import grids, progress
from mmbook.ledger import find_runs
from mmlib.experiments.training.checkpoints import Checkpoints, is_locked
from tools import status

cell_progress = progress.cell_progress
ROOT = Path(__file__).parents[1]
CELLS = grids.cells("schedules")
HISTORY = [{"epoch": 1, "seconds": 2.0}, {"epoch": 2, "seconds": 4.0}]


def cell(variant, seed=4):
    return next(cell for cell in CELLS if cell.variant == variant and cell.seed == seed)


def write_log(root, cell, text):
    path = root / progress.log_path(cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_cell_is_what_its_folder_and_log_say(tmp_path):
    one = cell("erm-epochs50")
    folder = tmp_path / "runs" / one.grid / one.path
    assert progress.cell_progress(one, tmp_path) == progress.Progress(one, progress.MISSING)
    write_log(tmp_path, one, "Executing\n\nFloatingPointError: the loss is nan in epoch 3\n\n")
    failed = progress.cell_progress(one, tmp_path)
    assert (failed.state, failed.epochs) == (progress.FAILED, 0)
    assert str(failed).startswith(
        f"schedules/{one.path}: 0 of 50 epochs; FloatingPointError: the loss is nan in epoch 3"
    )
    with Checkpoints(folder) as checkpoints:
        checkpoints.save({"history": HISTORY})
        checkpoints.wait()
        assert progress.cell_progress(one, tmp_path) == progress.Progress(one, progress.RUNNING, 2, 3.0)
    for last in ("RuntimeError: max_minutes is over: resume", "Executing notebook with kernel: python3"):
        write_log(tmp_path, one, last)
        assert progress.cell_progress(one, tmp_path) == progress.Progress(one, progress.STOPPED, 2, 3.0)
    (folder / "metrics.json").write_text("{}")
    assert progress.cell_progress(one, tmp_path) == progress.Progress(one, progress.FINISHED, 50)


def test_a_cell_whose_checkpoint_cannot_be_read_has_failed_and_says_why(tmp_path):
    one = cell("erm-epochs50")
    checkpoint = tmp_path / "runs" / one.grid / one.path / "checkpoint.pt"
    checkpoint.mkdir(parents=True)
    failed = progress.cell_progress(one, tmp_path)
    assert (failed.state, failed.reason) == (progress.FAILED, f"[Errno 21] Is a directory: '{checkpoint}'")


def test_asking_for_a_lock_leaves_the_folder_free(tmp_path):
    assert not is_locked(tmp_path)
    with Checkpoints(tmp_path):
        assert is_locked(tmp_path)
        with pytest.raises(OSError, match="is in use: another process trains there"), Checkpoints(tmp_path):
            pass
    assert not is_locked(tmp_path)


def test_the_rest_takes_what_recorded_epochs_took():
    records = [record for record in find_runs(ROOT / "book/results/schedules")[0] if record.seed == 0]
    pace = {r.variant: r.environment["train_seconds"] / r.config["epochs"] for r in records}
    own = progress.Progress(cell("mixup-epochs1000"), progress.STOPPED, 400, 0.5)
    assert progress.remaining_seconds([own], records) == pytest.approx(600 * 0.5)
    alike = progress.Progress(cell("mixup-epochs200"), progress.MISSING)
    assert progress.remaining_seconds([own, alike], records) == pytest.approx(300 + 200 * pace["mixup-epochs200"])
    assert progress.remaining_seconds([own, alike], []) is None


def test_status_of_this_books_grid_counts_every_cell(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(progress, "cell_progress", lambda cell, root: cell_progress(cell, tmp_path))
    assert status.main(["schedules"]) == 0  # nothing failed: without run folders cells are recorded or missing
    first = capsys.readouterr().out.splitlines()[0]
    recorded = len(grids.grid_records("schedules").records)
    assert first.startswith(f"schedules: {len(CELLS)} cells: {recorded} recorded")
    assert sum(int(part.split()[0]) for part in first.split(": ")[2].split(", ")) == len(CELLS)
    with pytest.raises(ValueError, match="grid must be one of"):
        status.main(["nothing"])
