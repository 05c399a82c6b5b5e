"""Where figures and verdicts come from: records folded beneath them, parameters and versions at a chapter's end."""

import datetime
import html
import os
import platform
import re
import shlex
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from IPython.display import HTML, display

from mmbook.comparison import counted, joined
from mmbook.ledger import read_verified
from mmbook.notebook import Parameter, parameters, project_root
from mmlib.experiments.arguments import to_arguments
from mmlib.experiments.runs import RunRecord, checksum


def record_files(runs: Iterable[RunRecord]) -> list[Path]:
    """Return the ledger's files of some runs, each once; a run folder has none."""
    files = dict.fromkeys(run.embeddings_path.with_suffix(".json") for run in runs)
    return [file for file in files if file.exists()]


def show_records(files: Iterable[Path]) -> None:
    """Show `fold_of_records` beneath a figure or a verdict, or nothing where no file is.

    It has a cell of its own, because a figure's caption would go to everything that the figure's cell shows.
    """
    if folded := fold_of_records(files):
        display(HTML(folded))


def fold_of_records(files: Iterable[Path]) -> str:
    """List the records behind a figure or a verdict with the command that runs one of them again, in a closed fold.

    Args:
        files: of the ledger.

    Returns:
        HTML that folds without a script; empty for no file.

    Raises:
        ValueError: a file is not a record, or was edited by hand.
    """
    described = pd.DataFrame([describe_record(file) for file in files])
    if described.empty:
        return ""
    summary = f"Records: {len(described):,} of {joined(list(described['grid'].unique()))}"
    return _details(summary, _rerun(described) + _table(described[["file", "checksum", "commit"]]))


def what_was_run(namespace: dict, files: Iterable[Path] = ()) -> None:
    """Show `fold` in a notebook."""
    display(HTML(fold(namespace, files)))


def fold(namespace: dict, files: Iterable[Path] = ()) -> str:
    """Say what a chapter was run with, and sum up the records that it read.

    Args:
        namespace: the notebook's `globals()`.
        files: of the ledger.

    Returns:
        HTML that folds without a script.

    Raises:
        ValueError: a file is not a record, or was edited by hand.
    """
    page = _paragraph(this_page()) + _parameter_table(parameters(namespace))
    described = pd.DataFrame([describe_record(file) for file in files])
    if not described.empty:
        page += _paragraph(_records_line(described)) + _table(group_records(described))
    return _details("What was run", page)


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
    commit, _, changes = (environment["commit"] or "no commit").partition(" ")
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
        "device": f"{environment['device']}, {counted(environment['threads'], 'thread')}",
        "command": _command(_from_root(file), config, environment),
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
        f"The chapter read {counted(len(described), 'record')}, {hours:.1f} hours of training in all; its figures and "
        "verdicts name theirs, each in the fold beneath. A record holds no date; its commit has one "
        "(<code>git show -s --format=%cd COMMIT</code>)."
    )


def _command(file: str, config: dict, environment: dict) -> str:
    """What runs a record again; empty for a detector that starts from a classifier, whose folder no record holds."""
    if "detector" not in config:
        device = "" if environment.get("device_type") else " --device cpu"  # older records do not say it
        return f"python -m tools.rerun {file}{device}"
    if config["start"]:
        return ""
    settings = {name: value for name, value in config.items() if name not in ("data", "digest", "start")}
    arguments = to_arguments({"record": "runs/again.json", "threads": environment["threads"]} | settings)
    return f"python -m mmbook.detection {shlex.join(arguments)}"


def _rerun(described: pd.DataFrame) -> str:
    """Print the command that runs again what was trained soonest, of what has a command of its own."""
    single = described[described["command"] != ""]
    if single.empty:
        return _paragraph("To run them again: <code>make detection</code> into an empty folder of records.")
    soonest = single.loc[single["minutes"].idxmin()]
    compared = " and compare every number" if "tools.rerun" in soonest["command"] else ""
    cost = f"{counted(max(1, round(soonest['minutes'])), 'minute')} of training on {soonest['device']}"
    said = f"To run one of them again{compared} (about {cost}):"
    return _paragraph(said) + f"<pre>{html.escape(soonest['command'])}</pre>"


def _parameter_table(found: list[Parameter]) -> str:
    rows = [{"parameter": p.name, "value": repr(p.value), "meaning": p.explanation} for p in found]
    return _table(pd.DataFrame(rows)) if rows else ""


def _table(rows: pd.DataFrame) -> str:
    """A table that scrolls within itself, also by keyboard."""
    style = "max-height:24em;overflow:auto"
    label = html.escape(", ".join(rows.columns), quote=True)
    body = re.sub(r">\s+<", "><", rows.to_html(index=False, border=0))  # a list of hundreds of files stays small
    return f'<div style="{style}" tabindex="0" role="region" aria-label="{label}">{body}</div>'


def _paragraph(text: str) -> str:
    return f"<p>{text}</p>"


def _details(summary: str, content: str) -> str:
    return f"<details><summary>{summary}</summary>{content}</details>"


def _span(counts: pd.Series) -> str:
    low, high = counts.min(), counts.max()
    return f"{high:,}" if low == high else f"{low:,} to {high:,}"


def _from_root(file: Path) -> str:
    """A file's path from the root of the clone, as a command takes it there."""
    return Path(os.path.relpath(file, project_root())).as_posix()
