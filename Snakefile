"""The grid of papermill runs, the chapters and the site.

A cell is known by its metrics.json alone: declared outputs of a failed job are deleted, and going on needs the
checkpoint beside it. What a rule watches of code is a digest of its meaning (`mmlib.provenance`), so that comments,
refreshed outputs and touched files run nothing again.
"""

import json
import os
import shlex
from pathlib import Path

import yaml

from mmlib.provenance import code_digest
from tools.chapters import source_digest

# Results do not depend on it, and two cells with one thread each beat one cell with two.
os.environ |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}

GRIDS = yaml.safe_load(Path("experiments.yml").read_text())
CELL = "notebooks/04-one-run.ipynb"
RUN = "runs/{grid}/{dataset}/{model}/{variant}/seed{seed}"
# Every chapter with the parameters that the site shows it with.
CHAPTERS = {
    "01-multimix": {},
    "02-dense-multimix": {},
    "03-self-distillation": {},
    "04-one-run": {"method": "multimix", "folder": "runs/embedded/digits/preactresnet-small/multimix/seed0"},
    "05-embedding-space": {"results": "runs/embedded"},
    "06-compare-methods": {"results": "runs/embedded"},
    "07-cost": {},
    "10-mixing-methods": {},
}


def cell_parameters(grid, dataset, variant, seed, **_):
    g = GRIDS[grid]
    of_dataset = {name: value for name, value in g["datasets"][dataset].items() if name != "only"}
    return {"dataset": dataset, **g["settings"], **of_dataset, **g["variants"][variant], "seed": int(seed)}


def cells(grid):
    g = GRIDS[grid]
    return [
        f"{RUN}/metrics.json".format(grid=grid, dataset=d, model=g["settings"]["model"], variant=v, seed=s)
        for s in g["seeds"]
        for d in g["datasets"]
        for v in g["datasets"][d].get("only", g["variants"])
    ]


def chapter_parameters(chapter):
    given = CHAPTERS[chapter]
    if chapter != "04-one-run":
        return given
    return cell_parameters("embedded", "digits", given["method"], 0) | given


def papermill(notebook, output, parameters):
    return f"papermill -k python3 --no-progress-bar {notebook} {output} -y {shlex.quote(json.dumps(parameters))}"


rule site:
    input:
        expand("build/notebooks/{chapter}.ipynb", chapter=CHAPTERS),
        cells("embedded"),
    params:
        sources=source_digest("book", "tools", "_config.yml", "_toc.yml", "pyproject.toml", "mmlib"),
    output:
        "build/site/_build/html/index.html",
    shell:
        "python -m tools.site build/site --notebooks build/notebooks --results runs/embedded"


for grid in GRIDS:

    rule:
        name:
            grid
        input:
            cells(grid),


rule cell:
    params:
        parameters=lambda wildcards: cell_parameters(**wildcards),
        code=code_digest(Path(CELL)),
        command=lambda wildcards: papermill(
            CELL,
            f"{RUN}/notebook.ipynb".format(**wildcards),
            cell_parameters(**wildcards) | {"folder": RUN.format(**wildcards)},
        ),
    output:
        f"{RUN}/metrics.json",
    log:
        "build/logs/{grid}/{dataset}-{model}-{variant}-seed{seed}.log",
    shell:
        "{params.command} > {log} 2>&1"


rule chapter:
    input:
        lambda wildcards: cells("embedded") if "runs/embedded" in str(CHAPTERS[wildcards.chapter]) else [],
    params:
        sources=lambda wildcards: source_digest(f"notebooks/{wildcards.chapter}.ipynb", "mmlib"),
        command=lambda wildcards: papermill(
            f"notebooks/{wildcards.chapter}.ipynb",
            f"build/notebooks/{wildcards.chapter}.ipynb",
            chapter_parameters(wildcards.chapter),
        ),
    output:
        "build/notebooks/{chapter}.ipynb",
    log:
        "build/logs/chapters/{chapter}.log",
    shell:
        "{params.command} > {log} 2>&1"
