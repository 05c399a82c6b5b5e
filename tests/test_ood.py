"""Scores and their metrics against scikit-learn and pytorch-ood; out-of-distribution images against Pillow."""

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_ood.detector import EnergyBased, MaxSoftmax
from pytorch_ood.metrics import OODMetrics
from scipy import stats
from sklearn import metrics as sklearn_metrics

from mmlib.experiments.data import sources
from mmlib.experiments.data.sources import load, load_test
from mmlib.experiments.data.split import Split
from mmlib.experiments.evaluation import ood
from mmlib.experiments.evaluation.ood import energy_score, load_ood_images, max_softmax_probability, ood_metrics


def scores(n: int, k: int, ties: int | None, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """n scores in and k out that overlap; `ties` is how many distinct values they are rounded to."""
    generator = torch.Generator().manual_seed(seed)
    inside, outside = (torch.randn(size, generator=generator, dtype=torch.double) for size in (n, k))
    inside += 0.8
    return (inside, outside) if ties is None else ((inside * ties).round(), (outside * ties).round())


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_scores_are_those_of_pytorch_ood(scale):
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.double) * scale
    torch.testing.assert_close(max_softmax_probability(logits), -MaxSoftmax.score(logits))
    torch.testing.assert_close(energy_score(logits), -EnergyBased.score(logits))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_of_certain_predictions_still_differ(dtype):
    logits = torch.tensor([[20.0, 0.0], [24.0, 0.0]], dtype=dtype)
    low, high = max_softmax_probability(logits)
    assert low < high < 1
    assert energy_score(logits).dtype == torch.float64


@pytest.mark.parametrize("score", [max_softmax_probability, energy_score])
@pytest.mark.parametrize(
    ("logits", "error", "got"),
    [
        (torch.zeros(3), ValueError, r"have shape \(n, c\), got \(3,\)$"),
        (torch.zeros(0, 3), ValueError, r"have shape \(n, c\), each at least 1, got \(0, 3\)$"),
        (torch.zeros(2, 3, 1), ValueError, r"have shape \(n, c\), got \(2, 3, 1\)$"),
        ([[0.0]], TypeError, "be a tensor, got list$"),
    ],
)
def test_scores_of_no_logits_are_refused(score, logits, error, got, unchecked):
    with pytest.raises(error, match=f"^logits must {got}"):
        score(logits)


CASES = [(60, 60, None), (40, 300, None), (300, 40, 1), (100, 100, 2), (20, 50, 1), (1, 3, 1), (5, 1, None)]


@pytest.mark.parametrize(("n", "k", "ties"), CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_ood_metrics_are_that_of_scikit_learn_and_pytorch_ood(n, k, ties, seed):
    inside, outside = scores(n, k, ties, seed)
    found = ood_metrics(inside, outside)
    together, is_in = torch.cat([inside, outside]), torch.cat([torch.ones(n), torch.zeros(k)])
    assert found["auroc"] == pytest.approx(100 * sklearn_metrics.roc_auc_score(is_in, together), abs=1e-9)
    for name, positive, sign in (("aupr_in", is_in, 1), ("aupr_out", 1 - is_in, -1)):
        precision, recall, _ = sklearn_metrics.precision_recall_curve(positive, sign * together)
        assert found[name] == pytest.approx(100 * sklearn_metrics.auc(recall, precision), abs=1e-9)
    # The false positives of pytorch-ood are images in the distribution: the sets change places.
    published = OODMetrics().update(-together, is_in.long() - 1).compute()
    swapped = OODMetrics().update(together, -is_in.long()).compute()
    assert found["auroc"] == pytest.approx(100 * published["AUROC"], abs=1e-9)
    assert found["aupr_in"] == pytest.approx(100 * published["AUPR-IN"], abs=1e-9)
    assert found["aupr_out"] == pytest.approx(100 * published["AUPR-OUT"], abs=1e-9)
    assert found["fpr95"] == pytest.approx(100 * swapped["FPR95TPR"], abs=1e-9)


@pytest.mark.parametrize(("n", "k", "ties"), CASES)
def test_detection_accuracy_is_the_best_of_all_thresholds(n, k, ties):
    inside, outside = scores(n, k, ties, 2)
    thresholds = [*torch.cat([inside, outside]).tolist(), float("inf")]
    errors = [
        sum(score < t for score in inside.tolist()) / n / 2 + sum(score >= t for score in outside.tolist()) / k / 2
        for t in thresholds
    ]
    assert ood_metrics(inside, outside)["accuracy"] == pytest.approx(100 * (1 - min(errors)), abs=1e-9)


def test_ninety_five_percent_are_met_exactly():
    inside = torch.arange(20.0)
    assert ood_metrics(inside, torch.tensor([0.5, 1.5, 0.9, 0.0]))["fpr95"] == 25.0
    assert ood_metrics(torch.arange(19.0), torch.tensor([0.5, 1.5, 0.9, 0.0]))["fpr95"] == 100.0


def test_equal_scores_are_chance_and_reversed_ones_are_all_wrong():
    same = ood_metrics(torch.ones(30), torch.ones(10))
    assert same == pytest.approx({"accuracy": 50, "auroc": 50, "aupr_in": 87.5, "aupr_out": 62.5, "fpr95": 100})
    worst = ood_metrics(torch.zeros(5), torch.ones(5))
    assert (worst["auroc"], worst["accuracy"], worst["fpr95"]) == (0, 50, 100)


@pytest.mark.parametrize(
    ("inside", "outside", "message"),
    [
        (torch.ones(0), torch.ones(2), r"^scores_in must have shape \(n,\), each at least 1, got \(0,\)$"),
        (torch.ones(2), torch.ones(3, 1), r"^scores_out must have shape \(k,\), got \(3, 1\)$"),
        (torch.tensor([float("nan"), 1.0]), torch.ones(2), "^scores_in must have no NaN, got 1$"),
        (torch.ones(2), torch.tensor([1.0, float("nan")]), "^scores_out must have no NaN, got 1$"),
    ],
)
def test_scores_that_are_none_are_refused(inside, outside, message, unchecked):
    with pytest.raises(ValueError, match=message):
        ood_metrics(inside, outside)


# Images


@pytest.fixture(scope="module")
def digits() -> Split:
    return load("digits").test


def colours(n: int, size: int, seed: int = 0) -> np.ndarray:
    """Smooth colour images (n, size, size, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (n, 5, 5, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(image).resize((size, size), Image.BICUBIC)) for image in coarse])


def test_noise_has_the_stated_distribution(digits):
    uniform = load_ood_images("uniform", digits, 500)
    assert uniform.images.shape == (500, 1, 8, 8)
    assert uniform.labels.unique().tolist() == [-1]
    counts = uniform.images.flatten().bincount(minlength=256)[1:255]
    assert stats.chisquare(counts).pvalue > 1e-3
    gaussian = load_ood_images("gaussian", digits, 500).images.flatten()
    for value in (0, 64, 128, 191):
        expected = stats.norm.cdf((value + 0.5) / 255, 0.5, 1)
        assert float((gaussian <= value).double().mean()) == pytest.approx(expected, abs=0.01)
    assert (gaussian == 255).double().mean() == pytest.approx(1 - stats.norm.cdf(254.5 / 255, 0.5, 1), abs=0.01)


def test_noise_is_the_seeds(digits):
    one, same, other = (load_ood_images("gaussian", digits, 5, seed=seed).images for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    colour = Split(torch.zeros(2, 3, 5, 7, dtype=torch.uint8), torch.zeros(2, dtype=torch.long))
    images = load_ood_images("uniform", colour, 4).images
    assert images.shape == (4, 3, 5, 7)
    assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [8, 16, 32, 48])
def test_images_are_resized_as_by_pillow(tmp_path, size):
    pictures = colours(6, 24)
    np.savez(tmp_path / "set.npz", test_images=pictures, test_labels=np.zeros(6, int))
    like = Split(torch.zeros(1, 3, size, size, dtype=torch.uint8), torch.zeros(1, dtype=torch.long))
    found = load_ood_images(str(tmp_path / "set.npz"), like, 6).images.permute(0, 2, 3, 1)
    expected = torch.stack(
        [torch.tensor(np.asarray(Image.fromarray(p).resize((size, size), Image.BILINEAR))) for p in pictures]
    )
    gaps = (found[:, None].int() - expected[None].int()).abs().amax(dim=(2, 3, 4))
    assert gaps.argmin(dim=1).sort().values.tolist() == list(range(6))
    assert gaps.amin(dim=1).max() <= 1


def test_colour_becomes_grey_as_by_pillow_and_grey_becomes_colour(tmp_path, digits):
    pictures = colours(1, 8)
    np.savez(tmp_path / "set.npz", test_images=pictures, test_labels=np.zeros(1, int))
    grey = load_ood_images(str(tmp_path / "set.npz"), digits, 1).images[0, 0]
    expected = torch.tensor(np.asarray(Image.fromarray(pictures[0]).convert("L")))
    assert (grey.int() - expected.int()).abs().max() <= 1
    like = Split(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, dtype=torch.long))
    colour = load_ood_images("digits", like, 2000).images
    assert len(colour) == len(digits)
    assert torch.equal(colour[:, 0], colour[:, 1])
    assert torch.equal(colour[:, 0], colour[:, 2])


@pytest.mark.parametrize("name", ["uniform", "gaussian", "digits"])
def test_blocks_do_not_change_the_images(digits, monkeypatch, name):
    expected = load_ood_images(name, digits, 100).images
    monkeypatch.setattr(ood, "IMAGES_PER_BLOCK", 7)
    assert torch.equal(load_ood_images(name, digits, 100).images, expected)
    assert ood.resize(torch.rand(3, 3, 9, 9), 1, (8, 8)).shape == (3, 1, 8, 8)


def test_noise_is_one_draw_of_all_values(digits):
    drawn = np.random.default_rng(0).random((300, 8, 8, 1), np.float32)
    expected = torch.from_numpy((drawn * 255).round().astype(np.uint8)).permute(0, 3, 1, 2)
    assert torch.equal(load_ood_images("uniform", digits, 300).images, expected)


def test_pictures_of_several_sizes_are_brought_to_the_size_of_a_streamed_set(tmp_path):
    """As its own test images are: the shorter side resized to 8/7, and the centre."""
    rng = np.random.default_rng(0)
    for place in ("set/train/a", "set/test/a", "others"):
        (tmp_path / place).mkdir(parents=True)
        for number, size in enumerate(((40, 30), (24, 50), (33, 33))):
            Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / place / f"{number}.png")
    streamed = load(str(tmp_path / "set"), size=16)
    found = load_ood_images(str(tmp_path / "others"), streamed.test, 5).images
    assert found.shape == (3, 3, 16, 16)
    expected = []
    for number, size in enumerate(((18, 24), (37, 18), (18, 18))):  # width, height; 18 is 8/7 of 16
        picture = Image.open(tmp_path / "others" / f"{number}.png").resize(size, Image.BILINEAR)
        left, top = ((side - 16) // 2 for side in size)
        expected.append(np.asarray(picture.crop((left, top, left + 16, top + 16))).tobytes())
    assert {image.permute(1, 2, 0).contiguous().numpy().tobytes() for image in found} == set(expected)
    with pytest.raises(ValueError, match="`size` brings images to one size"):
        load_ood_images(str(tmp_path / "others"), load("digits").test, 5)


def test_other_sets_are_drawn_from_without_replacement(digits):
    drawn = load_ood_images("digits", digits, 400)
    own = [image.numpy().tobytes() for image in drawn.images]
    every = [image.numpy().tobytes() for image in digits.images]
    assert len(own) == 400
    assert set(own) <= set(every)
    assert own != every[:400]
    assert len(set(own)) > 395  # a few digits are twice in the data
    assert torch.equal(load_ood_images("digits", digits, 400).images, drawn.images)


def test_test_sets_of_names_are_those_of_load():
    assert load_test("digits").fingerprint() == load("digits").test.fingerprint()
    assert load_test("shapes").fingerprint() == load("shapes", labelled_per_class=1).test.fingerprint()


def test_cifar_is_read_from_an_archive_with_a_test_set_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "KNOWN_FINGERPRINTS", {})
    pictures = colours(6, 32)
    np.savez(tmp_path / "cifar10.npz", test_images=pictures, test_labels=np.arange(6), class_names=np.arange(10))
    split = load_test("cifar10", root=tmp_path)
    assert np.array_equal(split.images.permute(0, 2, 3, 1), pictures)
    assert split.labels.tolist() == list(range(6))
    assert load_test(str(tmp_path / "cifar10.npz")).fingerprint() == split.fingerprint()
    with pytest.raises(ValueError, match=r"cifar10\.npz must have train_images"):
        load(str(tmp_path / "cifar10.npz"))


def test_svhn_is_read_through_torchvision(tmp_path, monkeypatch):
    from scipy.io import savemat
    from torchvision import datasets

    listed = {"test": ["", "test_32x32.mat", None]}
    monkeypatch.setattr(datasets.SVHN, "split_list", listed)
    pictures = colours(4, 32)
    savemat(tmp_path / "test_32x32.mat", {"X": pictures.transpose(1, 2, 3, 0), "y": np.array([[1], [2], [10], [9]])})
    split = load_test("svhn", root=tmp_path)
    assert np.array_equal(split.images.permute(0, 2, 3, 1), pictures)
    assert split.labels.tolist() == [1, 2, 0, 9]


def test_folders_with_and_without_classes(tmp_path, monkeypatch):
    pictures = colours(3, 10)
    for place in ("pets/test/ant", "pets/test/bee", "LSUN"):
        (tmp_path / place).mkdir(parents=True)
    for number, place in enumerate(("pets/test/ant", "pets/test/bee", "LSUN")):
        Image.fromarray(pictures[number]).save(tmp_path / place / "0.png")
    Image.fromarray(pictures[0]).save(tmp_path / "LSUN" / "1.png")
    pets, lsun = load_test(str(tmp_path / "pets")), load_test(str(tmp_path / "LSUN"))
    assert np.array_equal(pets.images.permute(0, 2, 3, 1), pictures[:2])
    assert pets.labels.tolist() == [0, 1]
    assert np.array_equal(lsun.images.permute(0, 2, 3, 1), pictures[[2, 0]])
    assert lsun.labels.tolist() == [0, 0]
    monkeypatch.chdir(tmp_path)
    assert load_test("LSUN").fingerprint() == load_test("./LSUN").fingerprint() == lsun.fingerprint()


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "cifar1O",
            ValueError,
            "test set must be svhn, digits, .* folder of class folders or of images, got 'cifar1O'",
        ),
        ("", ValueError, "test set must be .*, got ''"),
        ("missing/LSUN", FileNotFoundError, "test set must be .*, got 'missing/LSUN', which is not there"),
        ("missing.npz", FileNotFoundError, "missing.npz', which is not there"),
    ],
)
def test_unknown_names_are_refused(digits, tmp_path, name, error, message):
    with pytest.raises(error, match=message):
        load_ood_images(name, digits, 5, root=tmp_path)


def test_no_images_are_refused(digits):
    with pytest.raises(ValueError, match="count must be an integer >= 1, got 0"):
        load_ood_images("uniform", digits, 0)
