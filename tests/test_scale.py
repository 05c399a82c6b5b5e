"""What grids of thousands of cells cost the commands that look at them and plan them.

`pytest -m slow -s tests/test_scale.py` prints the figures.
"""

import dataclasses
import subprocess
import sys
from typing import NamedTuple

import pytest
import yaml

from mmbook import ledger
from mmlib.experiments.runs import checksum
from tests.clones import ROOT, environment, make_clone

pytestmark = pytest.mark.slow

VARIANTS = 10
# A process of its own, since a child counts the memory of the process that starts it as its own.
METER = """
import resource, subprocess, sys
code = subprocess.call([sys.executable, *sys.argv[1:]])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(code, used.ru_utime + used.ru_stime, used.ru_maxrss / 2 ** (20 if sys.platform == "darwin" else 10))
"""
PLAN = """
from mmbook import grids
from tools import record
record.run(grids.cells("wide"), record.FOREVER, ["--cores", "1", "--dry-run"], details=False)
"""


# About two seconds of processor time on the machine that the limits are from. That is estimated: a machine on which the
# commands below take 2.2 times as long needs 4.1. Another machine's seconds are counted by it.
REFERENCE = """
import yaml
cells = {f"cell{k}": {"seed": k, "lr": 0.1, "name": "multimix", "layers": [1, 2]} for k in range(4000)}
assert yaml.safe_load(yaml.safe_dump(cells)) == cells
"""
REFERENCE_SECONDS = 2


class Cost(NamedTuple):
    """Seconds of processor time and the most memory in MiB of a command, and what it printed."""

    seconds: float
    memory: float
    lines: list[str]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone with a grid of 1,000 recorded cells, and one of 10,000 cells of which half are recorded."""
    folder = tmp_path_factory.mktemp("scale")
    digits = yaml.safe_load((ROOT / "experiments.yml").read_text(encoding="utf-8"))["digits"]
    kept = list(digits["variants"].items())[:VARIANTS]
    variants = {name: {key: value for key, value in of.items() if key != "seeds"} for name, of in kept}
    make_clone(folder, variants)
    seeds = {"recorded": 1_000 // VARIANTS, "wide": 10_000 // VARIANTS}
    content = {name: digits | {"seeds": list(range(count)), "variants": variants} for name, count in seeds.items()}
    content["embedded"] = {"seeds": [0], "from": {"recorded": ["erm"]}}
    (folder / "experiments.yml").write_text(yaml.safe_dump(content, sort_keys=False))
    for variant in variants:
        record = ledger.load_record(ROOT / f"book/results/digits/digits/preactresnet-small/{variant}/seed0.json")
        add_seeds(record, seeds["recorded"], folder / "book/results/recorded")
        add_seeds(record, seeds["wide"] // 2, folder / "book/results/wide")
    return folder


def add_seeds(record, count, folder):
    """Enter a real record as if it were of other seeds, too."""
    for seed in range(count):
        config = {name: value for name, value in record.config.items() if name != "digest"} | {"seed": seed}
        same = dataclasses.replace(record, seed=seed, config=config | {"digest": checksum(config)})
        ledger.add(same, folder, embeddings=False)


def metered(clone, *arguments):
    """Run Python in the clone; it must end well."""
    command = [sys.executable, "-c", METER, *arguments]
    done = subprocess.run(command, cwd=clone, env=environment(clone), capture_output=True, text=True, check=True)
    *lines, numbers = done.stdout.splitlines()
    code, seconds, memory = map(float, numbers.split())
    assert code == 0, done.stdout + done.stderr
    return Cost(seconds, memory, lines)


@pytest.fixture
def cost(clone):
    """Run Python in the clone; its seconds are those of the machine that the limits are from."""

    def run(*arguments):
        slowness = metered(clone, "-c", REFERENCE).seconds / REFERENCE_SECONDS
        seconds, memory, lines = metered(clone, *arguments)
        here = f"{seconds:.1f} s of processor time here, {slowness:.1f} times as long as on the machine of the limits"
        print(f"\n{lines[0]}: {here}; {memory:.0f} MiB", end="")
        return Cost(seconds / slowness, memory, lines)

    return run


def test_a_thousand_recorded_cells_are_counted_in_ten_seconds(cost):
    status = cost("-m", "tools.status", "recorded")
    assert status.lines == ["recorded: 1000 cells: 1000 recorded"]
    assert status.seconds < 10
    assert status.memory < 1000


def test_a_thousand_recorded_cells_are_run_again_in_ten_seconds(cost):
    again = cost("-m", "tools.record", "recorded")
    assert again.lines == ["recorded: 1000 of 1000 cells are recorded in book/results"]
    assert again.seconds < 10
    assert again.memory < 1000


def test_status_of_ten_thousand_cells_takes_no_longer_than_reading_their_records(cost):
    """Not the product of recorded and missing cells, which is 25 million."""
    status = cost("-m", "tools.status", "wide")
    assert status.lines[0] == "wide: 10000 cells: 5000 recorded, 5000 missing"
    assert "by the seconds of recorded epochs" in status.lines[1]
    assert status.seconds < 13
    assert status.memory < 1200


def test_ten_thousand_cells_are_planned_in_a_minute(cost):
    plan = cost("-c", PLAN)
    assert plan.lines[0].startswith("0 of 10000 cells; ")
    assert plan.seconds < 60
    assert plan.memory < 1200
