"""Properties that hold for whatever Hypothesis generates: shapes, concentrations, precisions, configurations, files."""

import copy
import dataclasses
import json
import math
import warnings
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from mmbook import ledger
from mmlib import (
    _backend,
    dense_mixed_cross_entropy,
    mixed_binary_cross_entropy,
    mixed_cross_entropy,
    sample_mixing_weights,
)
from mmlib.experiments import runs
from mmlib.experiments.data import sources
from mmlib.experiments.data.dataset import Dataset
from mmlib.experiments.training.config import Config
from mmlib.metrics import alignment, calibration_error, confusion_matrix, uniformity

# Derandomised, for a test that fails by chance tells nobody anything; without deadlines, for machines are shared.
CASES = settings(max_examples=60, deadline=None, derandomize=True, database=None)

DTYPES = st.sampled_from([torch.float32, torch.float64])
HALVES = st.sampled_from([torch.bfloat16, torch.float16])
SEEDS = st.integers(0, 2**32 - 1)
CONCENTRATIONS = st.floats(1e-3, 1e3)
ALPHAS = CONCENTRATIONS | st.tuples(CONCENTRATIONS, CONCENTRATIONS).map(sorted).map(tuple)
PLAIN, DENSE, BINARY = "plain", "dense", "binary"


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_batch(kind: str, seed: int, m: int, c: int, r: int = 3, dtype=torch.float64, scale: float = 3.0) -> dict:
    """A mini-batch of one of the losses: logits of the scale, classes, and attention where it is dense."""
    source = generator(seed)
    shape = (m, r, c) if kind == DENSE else (m, c)
    batch = {"logits": (scale * torch.randn(shape, generator=source, dtype=torch.float64)).to(dtype)}
    batch["targets"] = torch.randint(c, (m,), generator=source)
    if kind == BINARY:
        batch["targets"] = torch.rand(m, c, generator=source) > 0.5
    if kind == DENSE:
        batch["attention"] = torch.rand(m, r, generator=source, dtype=torch.float64).to(dtype)
    return batch


LOSS = {PLAIN: mixed_cross_entropy, DENSE: dense_mixed_cross_entropy, BINARY: mixed_binary_cross_entropy}
KINDS = st.sampled_from(list(LOSS))
# Which of the losses' options are given: what does not apply to a loss is left out.
OPTIONS = st.sets(st.sampled_from(["weight", "smoothing", "soft", "ignored"]))
HEAVIEST = 2.0  # class


def give_options(kind: str, batch: dict, given: set[str], seed: int) -> dict:
    """A batch with targets of another kind, and class weights from 1/2 to 2 and smoothing as options of the loss."""
    source, (m, c) = generator(seed + 1), (len(batch["logits"]), batch["logits"].shape[-1])
    options = batch.copy()
    if "soft" in given:
        options["targets"] = torch.rand(m, c, generator=source, dtype=torch.float64)
        if kind != BINARY:
            options["targets"] /= options["targets"].sum(1, keepdim=True)
    elif "ignored" in given and kind != BINARY:
        options["targets"] = batch["targets"].masked_fill(torch.rand(m, generator=source) < 0.4, -100)
    if "weight" in given:
        options["weight"] = 0.5 + 1.5 * torch.rand(c, generator=source, dtype=torch.float64)
    if "smoothing" in given and kind != BINARY:
        options["label_smoothing"] = 0.1
    return options


# The library


@CASES
@given(n=st.integers(1, 40), m=st.integers(1, 40), alpha=ALPHAS, dtype=DTYPES | HALVES, seed=SEEDS)
def test_weights_are_on_the_simplex(n, m, alpha, dtype, seed):
    weights = sample_mixing_weights(n, m, alpha, generator=generator(seed), dtype=dtype)
    assert weights.shape == (n, m)
    assert weights.dtype == dtype
    assert bool((weights >= 0).all())
    rounding = m * torch.finfo(dtype).eps if dtype in (torch.bfloat16, torch.float16) else 32 * torch.finfo(dtype).eps
    assert (weights.double().sum(1) - 1).abs().max() <= rounding


@CASES
@given(
    kind=KINDS,
    options=OPTIONS,
    seed=SEEDS,
    n=st.integers(1, 12),
    m=st.integers(1, 12),
    c=st.integers(2, 8),
    alpha=ALPHAS,
)
def test_the_order_of_the_examples_does_not_matter(kind, options, seed, n, m, c, alpha):
    """A permuted mini-batch with permuted weights has the same loss, and permuted gradients."""
    batch = give_options(kind, make_batch(kind, seed, m, c), options, seed)
    weights = sample_mixing_weights(n, m, alpha, generator=generator(seed), dtype=torch.float64)
    order = torch.randperm(m, generator=generator(seed))
    of_classes = ("weight", "label_smoothing")
    permuted = {name: value if name in of_classes else value[order] for name, value in batch.items()}
    one, other = (values["logits"].requires_grad_() for values in (batch, permuted))
    loss = LOSS[kind](**batch, mixing_weights=weights)
    again = LOSS[kind](**permuted, mixing_weights=weights[:, order])
    torch.testing.assert_close(again, loss, rtol=1e-10, atol=1e-10)
    loss.backward()
    again.backward()
    torch.testing.assert_close(other.grad, one.grad[order], rtol=1e-8, atol=1e-12)


EXTREMES = [(1, 1, 2, 1.0), (9, 7, 5, 1e-3), (5, 9, 3, (0.5, 2.0)), (4, 2, 4, 1e3)]  # n, m, c and α
# Of the dense loss, which examples have attention at which positions.
ATTENDED = {"all": ..., "none": [], "one position": (slice(None), 0), "one example": 0}


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e2, 1e4])  # the last is within half precision
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [PLAIN, BINARY, *ATTENDED])
def test_losses_and_gradients_are_finite(kind, dtype, scale):
    """Every kind, dense by what has attention, with every type and scale."""
    of_loss = DENSE if kind in ATTENDED else kind
    for seed, (n, m, c, alpha) in enumerate(EXTREMES):
        batch = make_batch(of_loss, seed, m, c, dtype=dtype)
        batch["logits"] = batch["logits"].clamp(-1, 1).mul(scale).requires_grad_()
        if of_loss == DENSE:
            attended = torch.zeros_like(batch["attention"])
            attended[ATTENDED[kind]] = 1
            batch["attention"].mul_(attended).requires_grad_()
        loss = LOSS[of_loss](**batch, num_mixtures=n, alpha=alpha, generator=generator(seed))
        loss.backward()
        assert math.isfinite(loss.item())
        assert loss.item() >= -1e-6
        for value in batch.values():
            assert value.grad is None or bool(value.grad.isfinite().all())


@CASES
@given(
    kind=KINDS,
    options=OPTIONS,
    seed=SEEDS,
    n=st.integers(1, 20),
    m=st.integers(1, 20),
    c=st.integers(2, 20),
    dtype=HALVES,
)
def test_half_precision_is_within_the_rounding_of_its_logits(kind, options, seed, n, m, c, dtype):
    """All but the logits' rounding is computed in single precision, and the loss changes by at most twice theirs.

    Gradients are those at the rounded logits, themselves rounded.
    """
    batch = give_options(kind, make_batch(kind, seed, m, c), options, seed)
    weights = sample_mixing_weights(n, m, generator=generator(seed), dtype=torch.float64)
    half = batch | {"logits": batch["logits"].to(dtype).requires_grad_()}
    rounded = batch | {"logits": half["logits"].detach().double().requires_grad_()}
    expected, found, exact = (LOSS[kind](**values, mixing_weights=weights) for values in (batch, half, rounded))
    rounding = (rounded["logits"] - batch["logits"]).abs().max().item()
    assert abs(found.item() - expected.item()) <= 2 * HEAVIEST * rounding + 1e-5 * (1 + expected.item())
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)
    for loss in (found, exact):
        loss.backward()
    expected, digits = rounded["logits"].grad, torch.finfo(dtype)
    error = (half["logits"].grad.double() - expected).abs()
    # Of half precision, of its smallest numbers, and of what single precision has summed.
    assert bool((error <= digits.eps * expected.abs() + digits.smallest_normal * digits.eps + 3e-6).all())


@pytest.mark.parametrize("numba", [False, True])
@pytest.mark.parametrize("kind", [PLAIN, DENSE, BINARY])
def test_the_number_of_threads_changes_no_more_than_rounding(monkeypatch, kind, numba):
    monkeypatch.setattr(_backend, "USE_NUMBA", numba)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            batch = make_batch(kind, 0, 64, 100, dtype=torch.float32)
            batch["logits"].requires_grad_()
            loss = LOSS[kind](**batch, num_mixtures=1500, generator=generator(1))
            loss.backward()
            results.append((loss, batch["logits"].grad))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-8)


@CASES
@given(seed=SEEDS, n=st.integers(1, 9), m=st.integers(1, 9), dtype=DTYPES)
def test_a_single_class_is_refused_by_cross_entropy_alone(seed, n, m, dtype):
    for kind in (PLAIN, DENSE):
        with pytest.raises(ValueError, match="must have at least 2 classes"):
            LOSS[kind](**make_batch(kind, seed, m, 1, dtype=dtype), num_mixtures=n)
    loss = mixed_binary_cross_entropy(**make_batch(BINARY, seed, m, 1, dtype=dtype), num_mixtures=n)
    assert math.isfinite(loss.item())


@CASES
@given(seed=SEEDS, m=st.integers(2, 30), d=st.integers(1, 9), classes=st.integers(1, 6), exponent=st.integers(-15, 15))
def test_metrics_of_embeddings_follow_neither_order_nor_scale(seed, m, d, classes, exponent):
    embeddings = torch.randn(m, d, generator=generator(seed), dtype=torch.float64)
    labels = torch.arange(m) % classes
    order = torch.randperm(m, generator=generator(seed))
    for metric in (alignment, lambda u, y: uniformity(u)):
        value = metric(embeddings, labels)
        torch.testing.assert_close(metric(embeddings[order], labels[order]), value, equal_nan=True)
        torch.testing.assert_close(metric(10.0**exponent * embeddings, labels), value, equal_nan=True)


@CASES
@given(seed=SEEDS, n=st.integers(1, 40), c=st.integers(1, 9), bins=st.integers(1, 20))
def test_metrics_of_predictions_are_percentages_and_counts(seed, n, c, bins):
    logits = 5 * torch.randn(n, c, generator=generator(seed))
    labels = torch.randint(c, (n,), generator=generator(seed))
    assert 0 <= calibration_error(logits, labels, bins) <= 100 + 1e-9
    assert confusion_matrix(logits, labels).sum() == n


# Configurations and records

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = [field.name for field in dataclasses.fields(Config)]


@settings(CASES, max_examples=150)
@given(values=st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=3))
def test_a_configuration_survives_a_file_or_is_refused_in_one_line(values):
    refused = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as a user meets it
        try:
            config = Config(**values)
        except (TypeError, ValueError) as error:
            refused = str(error)
    if refused is not None:
        assert "\n" not in refused
        return
    assert Config(**json.loads(json.dumps(dataclasses.asdict(config), allow_nan=False))) == config


@CASES
@given(content=st.dictionaries(st.text(max_size=9), ANYTHING, max_size=4))
def test_json_of_runs_survives_whatever_it_holds(tmp_path_factory, content):
    """Numbers that are not finite, which JSON lacks, become null; any text is UTF-8, or escaped where it cannot be."""
    path = tmp_path_factory.mktemp("json") / "any.json"
    runs.write_json(path, content)
    read = runs.read_json(path)
    assert runs.checksum(read) == runs.checksum(content)
    runs.write_json(path, read)
    assert runs.read_json(path) == read


@CASES
@given(content=st.binary(max_size=200) | ANYTHING.map(lambda value: json.dumps(value).encode()))
def test_a_file_that_is_no_record_is_refused_in_one_line(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("ledger") / "digits" / "net" / "erm" / "seed0.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"seed0\.json") as caught:
        ledger.load_record(path)
    assert "\n" not in str(caught.value)


def places(value: object, path: tuple = ()) -> list[tuple]:
    """The paths of all that lies in a nested value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [inner for key, item in items for inner in [(*path, key), *places(item, (*path, key))]]


def mutate(content: dict, path: tuple, value: object) -> None:
    """Put a value in a place, or take away what is there."""
    *above, last = path
    for key in above:
        content = content[key]
    if value is TAKEN_AWAY:
        del content[last]
    else:
        content[last] = value


def sign(content: dict) -> dict:
    """The content with the digest and the checksum that fit it, as whoever wrote it would have computed them."""
    content = copy.deepcopy(content)
    if isinstance(config := content.get("config"), dict) and "digest" in config:
        config["digest"] = runs.checksum({name: value for name, value in config.items() if name != "digest"})
    return content | {"checksum": runs.checksum(content)}


TAKEN_AWAY = object()
PLACE = Path("digits", "preactresnet-small", "erm", "seed0.json")
RECORD = json.loads((Path(__file__).parents[1] / "book" / "results" / "digits" / PLACE).read_text(encoding="utf-8"))
del RECORD["checksum"]
RECORD["history"] = {name: values[-2:] for name, values in RECORD["history"].items()}
LIKELY = [3, -1, 0.5, 10**400, "new", None, True, [], {}, [1], {"a": 1}, "\0", "a\nb"]


@settings(CASES, max_examples=400)
@given(
    path=st.sampled_from(places(RECORD) + [(part, "new") for part in RECORD] + [("new",)]),
    value=st.sampled_from([TAKEN_AWAY, *LIKELY]) | ANYTHING,
)
def test_a_signed_record_of_whatever_kind_is_read_or_left_out_in_one_line(tmp_path_factory, path, value):
    """Another version may have written it: its checksum fits. Others beside it are listed all the same."""
    content = copy.deepcopy(RECORD)
    assume(value is not TAKEN_AWAY or path[-1] != "new")
    mutate(content, path, value)
    root = tmp_path_factory.mktemp("ledger")
    good, file = (root / variant / PLACE for variant in ("good", "mutated"))
    for target, written in ((good, RECORD), (file, content)):
        target.parent.mkdir(parents=True)
        target.write_text(json.dumps(sign(written)), encoding="utf-8")
    records, rejected = ledger.find_runs(root)
    assert len(ledger.table(records)) == len(records) == 2 - len(rejected)
    for line in rejected:
        assert line.startswith(f"{file} ")
        assert line.isprintable()


@settings(CASES, max_examples=100)
@given(
    name=st.sampled_from(["config.json", "metrics.json", "environment.json", "history.csv"]),
    content=st.sampled_from([b"", b"{}", b"[" * 100_000, b'{"method": "new"}', b"epoch\n1\n"]) | st.binary(max_size=99),
)
def test_a_damaged_run_folder_is_left_out_in_one_line(tmp_path_factory, name, content):
    root = tmp_path_factory.mktemp("runs")
    for variant in ("good", "damaged"):
        folder = root / variant / PLACE.with_suffix("")
        folder.mkdir(parents=True)
        for part in ("config", "metrics", "environment"):
            runs.write_json(folder / f"{part}.json", RECORD[part])
        columns = RECORD["history"]
        rows = zip(*columns.values())
        lines = [columns, *rows]
        text = "\n".join(",".join("" if value is None else str(value) for value in line) for line in lines)
        (folder / "history.csv").write_text(text, encoding="utf-8")
    (folder / name).write_bytes(content)
    records, (line,) = ledger.find_runs(root)
    assert len(records) == 1
    assert str(folder) in line
    assert line.isprintable()


@CASES
@given(content=st.binary(min_size=1, max_size=300), place=st.floats(0, 1))
def test_a_damaged_file_of_weights_is_refused_in_one_line_or_holds_them(tmp_path_factory, content, place):
    path = tmp_path_factory.mktemp("weights") / "weights.pt"
    runs.write_weights(path, {"head.bias": torch.arange(50.0)})
    whole = path.read_bytes()
    at = int(place * len(whole))
    path.write_bytes(whole[:at] + content + whole[at + len(content) :])
    weights, refused = {}, ""
    try:
        weights = runs.load_weights(path)
    except ValueError as error:
        refused = str(error)
    # The bytes of a tensor are not checked by torch, nor are names: what is read is a dictionary of tensors.
    assert refused or all(isinstance(value, torch.Tensor) for value in weights.values())
    assert not refused or "weights.pt must hold the weights of a network: " in refused
    assert "\n" not in refused


NAMES = st.text(min_size=1, max_size=12)


@CASES
@given(dataset=NAMES, model=NAMES, variant=NAMES, seed=st.integers(0, 2**70))
def test_a_path_of_a_run_stays_in_its_grid_and_says_what_it_is_of(dataset, model, variant, seed):
    assume("\0" not in dataset + model + variant)
    folders = [name for name in (dataset, model, variant) if name not in (".", "..") and "/" not in name]
    if len(folders) < 3:
        with pytest.raises(ValueError, match="must be the name of a folder in the path of a run"):
            runs.run_path(dataset, model, variant, seed)
        return
    path = runs.run_path(dataset, model, variant, seed)
    root = Path("/grid")
    assert (root / path).resolve().is_relative_to(root)
    assert len(path.parts) == 4
    assert runs.parse_run_path(root / path) == {"dataset": dataset, "model": model, "variant": variant, "seed": seed}


# Data sets

LABELS = arrays(st.sampled_from([np.uint8, np.int64, np.float32]), array_shapes(max_dims=2, max_side=4))
PIXELS = arrays(st.sampled_from([np.uint8, np.uint16, np.bool_]), array_shapes(min_dims=2, max_dims=5, max_side=4))
IN_FILES = {"train": "train", "validation": "val", "test": "test"}
MEMBERS = st.sampled_from([*sources.ARRAYS, "valid_images", "ids"])


def read_or_refused(path: Path) -> tuple[Dataset | None, str]:
    """The data set at a path, as a user meets it, or else why it is refused."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        warnings.filterwarnings("ignore", module="PIL")  # of metadata
        try:
            return sources.load(str(path)), ""
        except (ValueError, OSError) as error:
            return None, str(error)


@st.composite
def whole_sets(draw) -> dict[str, np.ndarray]:
    """Arrays that are a data set, of any number of images, sizes, classes and types of labels."""
    side, classes = draw(st.integers(1, 5)), draw(st.integers(2, 4))
    channels = draw(st.sampled_from([(), (1,), (3,)]))
    splits = ("train", "val", "test") if draw(st.booleans()) else ("train", "test")
    source, found = np.random.default_rng(draw(SEEDS)), {}
    for split in splits:
        labels = source.permutation(np.arange(draw(st.integers(classes, 9))) % classes)
        found[f"{split}_images"] = source.integers(0, 256, (len(labels), side, side, *channels), dtype=np.uint8)
        found[f"{split}_labels"] = labels.astype(draw(st.sampled_from([np.uint8, np.int16, np.uint64])))
    return found


@CASES
@given(content=whole_sets(), packed=st.booleans())
def test_an_archive_of_a_data_set_is_read_to_the_pixel(tmp_path_factory, content, packed):
    path = tmp_path_factory.mktemp("archive") / "set.npz"
    (np.savez_compressed if packed else np.savez)(path, **content)
    for name, split in sources.load(str(path)).splits().items():
        pixels = content[f"{IN_FILES[name]}_images"]
        assert np.array_equal(split.images.permute(0, 2, 3, 1).numpy().reshape(pixels.shape), pixels)
        assert split.labels.tolist() == content[f"{IN_FILES[name]}_labels"].tolist()


@CASES
@given(whole=whole_sets(), changes=st.dictionaries(MEMBERS, PIXELS | LABELS, min_size=1, max_size=2))
def test_an_archive_of_any_arrays_is_a_data_set_or_refused_in_one_line(tmp_path_factory, whole, changes):
    path = tmp_path_factory.mktemp("archive") / "set.npz"
    np.savez(path, **whole | changes)
    dataset, refused = read_or_refused(path)
    if dataset is None:
        assert "set.npz" in refused
        assert "\n" not in refused
        return
    assert not {"valid_images", "ids"} & changes.keys()
    for name, split in dataset.splits().items():
        pixels = (whole | changes)[f"{IN_FILES[name]}_images"]
        assert pixels.dtype == np.uint8
        assert np.array_equal(split.images.permute(0, 2, 3, 1).numpy().reshape(pixels.shape), pixels)
        assert len(split.labels) == len(pixels)


DAMAGES = st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=40), st.booleans())


def damage(path: Path, place: float, content: bytes, cut: bool) -> None:
    """Write other bytes into a file, or cut it off there."""
    whole = path.read_bytes()
    at = int(place * (len(whole) - 1))
    path.write_bytes(whole[:at] if cut else whole[:at] + content + whole[at + len(content) :])


@CASES
@given(whole=whole_sets(), packed=st.booleans(), how=DAMAGES)
def test_a_damaged_archive_holds_its_data_or_is_refused_in_one_line(tmp_path_factory, whole, packed, how):
    """Its checksums are those of the arrays: what is read is what was written."""
    path = tmp_path_factory.mktemp("archive") / "set.npz"
    (np.savez_compressed if packed else np.savez)(path, **whole)
    fingerprint = sources.load(str(path)).fingerprint
    damage(path, *how)
    dataset, refused = read_or_refused(path)
    assert dataset is None or dataset.fingerprint == fingerprint
    assert dataset is not None or "set.npz must " in refused
    assert "\n" not in refused


MODES = st.sampled_from([("L", "png"), ("RGB", "png"), ("RGBA", "png"), ("P", "gif"), ("1", "bmp"), ("RGB", "ppm")])
MODES |= st.sampled_from([("RGB", "tif"), ("RGB", "bmp"), ("RGB", "jpg"), ("CMYK", "jpg"), ("RGB", "webp")])


def write_pictures(root: Path, mode: str, suffix: str, seed: int, counts: tuple[int, int], side: int) -> list[Path]:
    """Class folders of pictures of one kind."""
    source, files = np.random.default_rng(seed), []
    for split in ("train", "test"):
        for name, count in zip(("ant", "bee"), counts):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                files.append(root / split / name / f"{number}.{suffix}")
                picture = Image.fromarray(source.integers(0, 256, (side, side, 3), dtype=np.uint8))
                picture.convert(mode).save(files[-1])
    return files


PICTURES = settings(CASES, max_examples=40)
COUNTS = st.tuples(st.integers(1, 3), st.integers(1, 3))


@PICTURES
@given(mode=MODES, seed=SEEDS, counts=COUNTS, side=st.integers(1, 9))
def test_class_folders_are_read_to_the_pixel(tmp_path_factory, mode, seed, counts, side):
    root = tmp_path_factory.mktemp("folder") / "pets"
    files = write_pictures(root, *mode, seed, counts, side)
    dataset = sources.load(str(root))
    found = [image for split in dataset.splits().values() for image in split.images.permute(0, 2, 3, 1).numpy()]
    for pixels, file in zip(found, files):
        with Image.open(file) as picture:
            assert np.array_equal(pixels, picture.convert("RGB"))
    assert dataset.train.labels.tolist() == dataset.test.labels.tolist() == [0] * counts[0] + [1] * counts[1]


@PICTURES
@given(mode=MODES, seed=SEEDS, how=DAMAGES, which=st.integers(0, 3))
def test_a_damaged_picture_is_read_or_refused_in_one_line(tmp_path_factory, mode, seed, how, which):
    """Most formats have no checksum, so that other pixels may be read, but of the same size and of this file alone."""
    root = tmp_path_factory.mktemp("folder") / "pets"
    file = write_pictures(root, *mode, seed, (1, 1), 6)[which]
    whole = sources.load(str(root))
    damage(file, *how)
    dataset, refused = read_or_refused(root)
    if dataset is None:
        assert str(file) in refused
        assert "\n" not in refused
        return
    for name, split in dataset.splits().items():
        kept = [k for k in range(2) if root / name / ("ant", "bee")[k] != file.parent]
        assert torch.equal(split.images[kept], whole.splits()[name].images[kept])
        assert split.images.shape == whole.splits()[name].images.shape
