"""CIFAR through torchvision's files and archives, and what is not the real one."""

import pickle
import urllib.error

import numpy as np
import pytest

from mmlib.experiments.data import sources
from mmlib.experiments.data.sources import load


def old_pickle(path, content: dict) -> None:
    """As the archives were written: protocol 2, arrays with NumPy's align=0, copy=1 for False, True."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2).replace(b"\x89\x88\x87", b"K\x00K\x01\x87"))


@pytest.fixture
def planes(monkeypatch) -> np.ndarray:
    """Twelve images of 3 x 32 x 32; torchvision's checksums are those of the real archives, so none is asked for."""
    from torchvision import datasets

    for source in (datasets.CIFAR10, datasets.CIFAR100):
        for listed in ("train_list", "test_list"):
            monkeypatch.setattr(source, listed, [[name, None] for name, _ in getattr(source, listed)])
        monkeypatch.setattr(source, "meta", {**source.meta, "md5": None})
    monkeypatch.setattr(sources, "KNOWN_FINGERPRINTS", {})
    return np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)


def test_cifar10(tmp_path, planes):
    place = tmp_path / "cifar-10-batches-py"
    for number in range(6):
        name = f"data_batch_{number + 1}" if number < 5 else "test_batch"
        rows = planes[2 * number : 2 * number + 2].reshape(2, 3072)
        old_pickle(place / name, {"data": rows, "labels": [number, 9]})
    old_pickle(place / "batches.meta", {"label_names": list("abcdefghij")})
    dataset = load("cifar10", root=tmp_path)
    assert dataset.train.labels.tolist() == [0, 1, 2, 3, 4, 9, 9, 9, 9, 9]
    for label in range(10):
        ours = {bytes(image) for image in dataset.train.images[dataset.train.labels == label].contiguous().numpy()}
        held = planes[1:10:2] if label == 9 else planes[[2 * label]] if label < 5 else []
        assert ours == {bytes(image) for image in held}
    nines = [bytes(image) for image in dataset.train.images[-5:].permute(0, 2, 3, 1).contiguous().numpy()]
    assert nines == sorted(nines)  # one order whatever the source
    assert np.array_equal(dataset.test.images, planes[10:])
    assert dataset.test.labels.tolist() == [5, 9]
    assert dataset.class_names == tuple("abcdefghij")
    assert (dataset.name, dataset.batch_size, dataset.padding, dataset.flip) == ("cifar10", 128, 4, True)
    assert dataset.validation is None


def test_cifar100(tmp_path, planes):
    place = tmp_path / "cifar-100-python"
    fine = [0, 1, 2, 3, 0, 1, 2, 99]
    old_pickle(place / "train", {"data": planes[:8].reshape(8, 3072), "fine_labels": fine, "coarse_labels": [0] * 8})
    old_pickle(place / "test", {"data": planes[8:].reshape(4, 3072), "fine_labels": [4] * 4, "coarse_labels": [0] * 4})
    old_pickle(
        place / "meta", {"fine_label_names": [f"fine {k}" for k in range(100)], "coarse_label_names": ["coarse"]}
    )
    dataset = load("cifar100", root=tmp_path)
    assert dataset.train.labels.tolist() == sorted(fine)
    assert dataset.test.labels.tolist() == [4] * 4
    assert (dataset.classes, dataset.class_names[99]) == (100, "fine 99")
    with pytest.raises(ValueError, match="labelled_per_class must be at most 1, the images of 'fine 3', got 2"):
        load("cifar100", root=tmp_path, labelled_per_class=2)
    arrays = {"train_images": planes[:8], "train_labels": fine, "test_images": planes[8:], "test_labels": [4] * 4}
    arrays = {key: np.moveaxis(value, 1, -1) if "images" in key else value for key, value in arrays.items()}
    (tmp_path / "npz").mkdir()
    np.savez(tmp_path / "npz" / "cifar100.npz", **arrays, class_names=dataset.class_names)
    assert load("cifar100", root=tmp_path / "npz").fingerprint == dataset.fingerprint


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_that_is_not_the_real_one(tmp_path, name):
    images, labels = np.zeros((10, 32, 32, 3), np.uint8), np.arange(10)
    parts = {
        f"{part}_{key}": value for part in ("train", "test") for key, value in (("images", images), ("labels", labels))
    }
    np.savez(tmp_path / f"{name}.npz", **parts, class_names=np.arange(10).astype(str))
    words = rf"must hold the real {name}, whose \w+ is \w+, got 10 images of shape \(3, 32, 32\), fingerprint \w+"
    with pytest.raises(ValueError, match=words):
        load(name, root=tmp_path)


def test_cifar_without_a_network(tmp_path, monkeypatch):
    from torchvision import datasets

    def unreachable(self) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(datasets.CIFAR10, "download", unreachable)
    with pytest.raises(
        FileNotFoundError,
        match=f"cifar10 is not in root '{tmp_path}'; it takes .*cifar10.npz or torchvision's download: .*no net",
    ):
        load("cifar10", root=tmp_path)


def test_tinyimagenet_is_made_beforehand(tmp_path):
    takes = (
        f"it takes {tmp_path}/tinyimagenet.npz, which python -m mmlib.experiments.data.tinyimagenet '{tmp_path}' makes"
    )
    with pytest.raises(FileNotFoundError, match=f"tinyimagenet is not in root '{tmp_path}'; {takes}"):
        load("tinyimagenet", root=tmp_path)
