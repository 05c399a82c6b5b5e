"""Mistakes in experiments.yml end in one line that names the place, and the right name where one is near."""

from pathlib import Path

import jsonschema
import pytest
import yaml

from mmbook import grids
from mmbook.grid_schema import read_grids, schema

ROOT = Path(__file__).parents[1]
GRIDS = """\
shared: &shared
  seeds: [0]
  settings: {threads: 1}
tiny:
  seeds: [0, 1]
  settings:
    model: preactresnet-small
    resources: {minutes: 5}
  datasets:
    digits:
      epochs: 2
      lr: 0.1
  cross: {epochs: [2, 4]}
  variants:
    erm: {method: erm}
    few: {method: multimix, options: {num_mixtures: 10}, resources: {minutes: 9, memory_mib: 2000}}
copy:
  <<: *shared
  weights: true
"""


def test_the_schema_is_a_schema_and_takes_this_books_grids():
    jsonschema.Draft202012Validator.check_schema(schema())
    text = (ROOT / "experiments.yml").read_text()
    assert read_grids(text) == yaml.safe_load(text)
    assert read_grids(GRIDS)["copy"]["settings"] == {"threads": 1}


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("      epochs: 2", "      epoch: 2", "line 11: tiny.datasets.digits takes no epoch; did you mean epochs?"),
        ("lr: 0.1", "lr: fast", "line 12: tiny.datasets.digits.lr must be of type number, got 'fast'"),
        ("lr: 0.1", "lr: .nan", "line 12: tiny.datasets.digits.lr must be of type number, got nan"),
        ("minutes: 5", "minutes: .inf", "line 8: tiny.settings.resources.minutes must be of type number, got inf"),
        ("method: erm", "method: emr", "line 15: tiny.variants.erm.method must be one of erm, mixup"),
        ("method: erm", "method: emr", "got 'emr'; did you mean erm?"),
        ("{method: erm}", "{lr: 1.0}", "line 15: tiny.variants.erm must have method"),
        ("num_mixtures", "n_mixtures", "tiny.variants.few.options takes no n_mixtures; did you mean num_mixtures?"),
        ("minutes: 5", "minutes: 0", "line 8: tiny.settings.resources.minutes must fit the schema: 0 is less than"),
        ("seeds: [0, 1]", "seeds: [0, 0]", "line 5: tiny.seeds must fit the schema: [0, 0] has non-unique elements"),
        ("seeds: [0, 1]", "seeds: 3", "line 5: tiny.seeds must be of type array, got 3"),
        ("cross: {epochs: [2, 4]}", "cross: {epochs: 2}", "line 13: tiny.cross.epochs must be of type array, got 2"),
        ("threads: 1", "thread: 1", "line 3: shared.settings takes no thread; did you mean threads?"),
        ("weights: true", "weights: 1.5", "line 19: copy.weights must be of type boolean, got 1.5"),
        ("    few:", "    erm:", "line 16: erm must stand once, got it again"),
        ("seeds: [0, 1]", "seeds: [0, 1", "line 6: the file must be YAML, expected ',' or ']'"),
    ],
)
def test_a_mistake_is_named_with_its_line(right, wrong, message):
    assert right in GRIDS
    with pytest.raises(ValueError, match=r"^grids\.yml, line \d+: .*") as raised:
        read_grids(GRIDS.replace(right, wrong, 1), "grids.yml")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.fixture
def in_clone(tmp_path, monkeypatch):
    (tmp_path / "mmlib").mkdir()
    (tmp_path / "mmlib" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_variants_resources_replace_those_of_its_grid(in_clone):
    (in_clone / "experiments.yml").write_text(GRIDS)
    cells = {cell.variant: cell for cell in grids.cells("tiny")}
    assert cells["erm-epochs4"].resources == {"minutes": 5}
    assert cells["few-epochs2"].resources == {"minutes": 9, "memory_mib": 2000}
    assert "resources" not in cells["few-epochs2"].parameters


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("epochs: [2, 4]", "warmup_epochs: [1, 7]", r"tiny.variants.erm-warmup_epochs7 on digits: warmup_epochs"),
        ("      lr: 0.1", "      only: [erm]", r"tiny.datasets.digits.only must name variants of the grid, got 'erm'"),
        ("      lr: 0.1", "      only: [emr-epochs2]", r"got 'emr-epochs2'; did you mean erm-epochs2\?"),
        ("  weights: true", "  from: {tinny: [erm]}", r"copy.from must name grids, got 'tinny'; did you mean tiny\?"),
    ],
)
def test_what_no_schema_sees_is_named_too(in_clone, right, wrong, message):
    (in_clone / "experiments.yml").write_text(GRIDS.replace(right, wrong, 1))
    with pytest.raises(ValueError, match=message):
        [grids.cells(grid) for grid in ("tiny", "copy")]
