"""Where a chapter's figures and verdicts come from: its parameters, versions and records, folded at its end."""

import datetime
import html
import os
import platform
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from IPython.display import HTML, display

from mmbook.ledger import read_verified
from mmbook.notebook import Parameter, parameters, project_root
from mmlib.experiments.runs import RunRecord, checksum


def record_files(runs: Iterable[RunRecord]) -> list[Path]:
    """Return the ledger's files of some runs; a run folder has none."""
    files = [run.embeddings_path.with_suffix(".json") for run in runs]
    return [file for file in files if file.exists()]


def what_was_run(namespace: dict, files: Iterable[Path] = ()) -> None:
    """Show `fold` in a notebook."""
    display(HTML(fold(namespace, files)))


def fold(namespace: dict, files: Iterable[Path] = ()) -> str:
    """Say what a chapter was run with and which records it read, and how one of them is run again.

    Args:
        namespace: the notebook's `globals()`.
        files: of the ledger.

    Returns:
        HTML that folds without a script.

    Raises:
        ValueError: a file is not a record, or was edited by hand.
    """
    page = _paragraph(this_page()) + _parameter_table(parameters(namespace))
    return _details("What was run", page + describe_records(files))


def fold_of_records(files: Iterable[Path]) -> str:
    """Name the records behind a page that no notebook makes, folded, and how one of them is run again.

    Args:
        files: of the ledger.

    Raises:
        ValueError: a file is not a record, or was edited by hand.
    """
    return _details("The records behind this", describe_records(files))


def describe_records(files: Iterable[Path]) -> str:
    """Group records in a table, say how one of them is run again, and list all; empty for none."""
    described = pd.DataFrame([describe_record(file) for file in files])
    if described.empty:
        return ""
    parts = [_paragraph(_records_line(described)), _table(group_records(described)), _rerun(described)]
    parts.append(_details(f"All {len(described)} files", _table(described[["file", "checksum", "commit"]])))
    return "".join(parts)


def this_page() -> str:
    """Say when, with which versions and for how long this process has computed."""
    versions = f"Python {platform.python_version()}, torch {version('torch')} and NumPy {version('numpy')}"
    return (
        f"This page was computed on {datetime.date.today():%d %B %Y} with {versions}, "
        f"in {time.process_time():.0f} seconds of processor time on {platform.machine()}."
    )


def describe_record(file: Path) -> dict[str, str | int | float]:
    """Describe a record of the ledger, of a classifier or of a detector: what was trained, with what, by which code.

    Raises:
        ValueError: the file is not a record, or was edited by hand.
    """
    content = read_verified(file)
    config, environment = content["config"], content["environment"]
    commit, _, changes = environment["commit"].partition(" ")
    return {
        "file": _from_root(file),
        "checksum": checksum(content),
        "commit": f"{commit[:7]} {changes}".strip(),
        "grid": _from_root(file).removeprefix("book/results/").partition("/")[0],
        "data": config["dataset"],
        "model": config.get("detector", config["model"]),
        "variant": file.parent.name,
        "seed": config["seed"],
        "epochs": config["epochs"],
        "minutes": environment["train_seconds"] / 60,
        "torch": environment["torch"],
        "device": f"{environment['device']}, {_counted(environment['threads'], 'thread')}",
        "kind": environment.get("device_type", ""),
    }


def group_records(described: pd.DataFrame) -> pd.DataFrame:
    """Count records by grid, data, model, code and machine: a row for each that differs."""
    rows = []
    for (grid, data, model, commit, torch, device), of in described.groupby(
        ["grid", "data", "model", "commit", "torch", "device"], sort=False
    ):
        rows.append(
            {
                "grid": grid,
                "data": data,
                "network": model,
                "records": len(of),
                "variants": of["variant"].nunique(),
                "seeds": of["seed"].nunique(),
                "epochs": _span(of["epochs"]),
                "trained (min)": f"{of['minutes'].sum():.0f}",
                "torch": torch,
                "device": device,
                "commit": commit,
            }
        )
    return pd.DataFrame(rows)


def _records_line(described: pd.DataFrame) -> str:
    hours = described["minutes"].sum() / 60
    return (
        f"It read {_counted(len(described), 'record')}, {hours:.1f} hours of training in all. A record holds no date; "
        "its commit has one (<code>git show -s --format=%cd COMMIT</code>)."
    )


def _rerun(described: pd.DataFrame) -> str:
    """Print the command that runs the first record of a classifier again; detectors have a target of their own."""
    first = described.iloc[0]
    if first["grid"] == "detection":
        return _paragraph("To run them again: <code>make detection</code> into an empty folder of records.")
    device = "" if first["kind"] else " --device cpu"  # older records do not say it
    return _paragraph("To run one of them again and compare every number:") + (
        f"<pre>python -m tools.rerun {first['file']}{device}</pre>"
    )


def _parameter_table(found: list[Parameter]) -> str:
    rows = [{"parameter": p.name, "value": repr(p.value), "meaning": p.explanation} for p in found]
    return _table(pd.DataFrame(rows)) if rows else ""


def _table(rows: pd.DataFrame) -> str:
    """A table that scrolls within itself, also by keyboard."""
    style = "max-height:24em;overflow:auto"
    label = html.escape(", ".join(rows.columns), quote=True)
    body = rows.to_html(index=False, border=0)
    return f'<div style="{style}" tabindex="0" role="region" aria-label="{label}">{body}</div>'


def _paragraph(text: str) -> str:
    return f"<p>{text}</p>"


def _details(summary: str, content: str) -> str:
    return f"<details><summary>{summary}</summary>{content}</details>"


def _span(counts: pd.Series) -> str:
    low, high = counts.min(), counts.max()
    return f"{high:,}" if low == high else f"{low:,} to {high:,}"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _from_root(file: Path) -> str:
    """A file's path from the root of the clone, as a command takes it there."""
    return Path(os.path.relpath(file, project_root())).as_posix()
