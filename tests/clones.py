"""Small clones of the repository, in which tests run grids of their own through the real commands."""

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
SETTINGS = {
    "model": "preactresnet-small",
    "precision": "float32",
    "threads": 1,
    "attacked_per_class": 0,
    "out_sets": [],
    "checkpoint_minutes": 0.02,
}
CELL = "digits/preactresnet-small/{}/seed0"


def make_clone(folder, variants):
    """The part of the repository that a grid needs, and one grid of digits, `tiny`."""
    for name in ("mmbook", "mmlib", "tools", "profiles"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "notebooks").mkdir()
    for name in ("Snakefile", "notebooks/05-one-run.ipynb"):
        shutil.copy(ROOT / name, folder / name)
    tiny = {"seeds": [0], "settings": SETTINGS, "datasets": {"digits": {}}, "variants": variants}
    embedded = {"seeds": [0], "from": {"tiny": list(variants)[:1]}}  # which Snakefile's rule for the site asks for
    (folder / "experiments.yml").write_text(yaml.safe_dump({"tiny": tiny, "embedded": embedded}, sort_keys=False))
    return folder


def copy_tracked(folder):
    """A copy of all files that git tracks."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, tracked.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def environment(folder, **more):
    """Programs of this interpreter come first, and modules of the clone."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    modules = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PATH": path, "PYTHONPATH": modules, "OMP_NUM_THREADS": "1"} | more


@contextmanager
def grid_of(folder, *options):
    """Start `make grid GRID=tiny` without make; its output comes with `communicate`, and it ends with the context."""
    command, ways = [sys.executable, "-m", "tools.record", "tiny", *options], (subprocess.PIPE, subprocess.STDOUT)
    driver = subprocess.Popen(command, cwd=folder, env=environment(folder), stdout=ways[0], stderr=ways[1], text=True)
    try:
        yield driver
    finally:
        driver.kill()
        driver.communicate()


def run_alone(folder, variant, **settings):
    """Run a cell by the command line, in a folder beside the grid's, and return that folder."""
    from mmlib.experiments.arguments import to_arguments

    alone = folder / "alone" / CELL.format(variant)
    options = SETTINGS | {"dataset": "digits", "folder": str(alone), "checkpoint_minutes": 5.0} | settings
    command = [sys.executable, "-m", "mmlib.experiments", *to_arguments(options)]
    env = environment(folder, TQDM_DISABLE="1")
    subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True)
    return alone
