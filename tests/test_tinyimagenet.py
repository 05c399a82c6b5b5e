"""TinyImageNet's file against an archive in the real one's layout, served by HTTP."""

import functools
import hashlib
import http.server
import io
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from mmlib.experiments.data import tinyimagenet
from mmlib.experiments.data.dataset import Dataset
from mmlib.experiments.data.sources import load, load_test


def load_made(root) -> Dataset:
    assert tinyimagenet.make(root) == root / "tinyimagenet.npz"
    return load("tinyimagenet", root=root)


WORDS = {"n02": "goldfish, Carassius auratus", "n01": "ox", "n03": "tractor"}
VAL = {"val_0.JPEG": "n03", "val_1.JPEG": "n01", "val_10.JPEG": "n02", "val_2.JPEG": "n01"}


@pytest.fixture
def jpegs() -> dict[str, bytes]:
    """Two training images of each of three classes and four to test on, some of them grey, by their place."""
    rng = np.random.default_rng(0)
    names = [f"train/{wnid}/images/{wnid}_{k}.JPEG" for wnid in WORDS for k in range(2)]
    names += [f"val/images/{name}" for name in VAL]
    files = {}
    for number, name in enumerate(names):
        pixels = np.kron(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8), np.ones((16, 16, 1), np.uint8))
        buffer = io.BytesIO()
        Image.fromarray(pixels if number % 3 else pixels[..., 0]).save(buffer, format="jpeg")
        files[name] = buffer.getvalue()
    return files


@pytest.fixture
def archive(tmp_path, jpegs, monkeypatch):
    """An archive in the real one's layout, served by HTTP; its path on the server."""
    path = tmp_path / "server" / "tiny-imagenet-200.zip"
    path.parent.mkdir()
    boxes = {f"train/{wnid}/{wnid}_boxes.txt": f"{wnid}_0.JPEG\t0\t10\t63\t58\n" for wnid in WORDS}
    texts = {
        "wnids.txt": "\n".join(WORDS),
        "words.txt": "n00\tentity\n" + "".join(f"{wnid}\t{words}\n" for wnid, words in WORDS.items()),
        "val/val_annotations.txt": "".join(f"{name}\t{wnid}\t0\t32\t44\t62\n" for name, wnid in VAL.items()),
        "test/images/test_0.JPEG": b"never read",
    }
    with zipfile.ZipFile(path, "w") as content:
        for name, text in (jpegs | boxes | texts).items():
            content.writestr(f"tiny-imagenet-200/{name}", text)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=path.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(tinyimagenet, "URL", f"http://127.0.0.1:{server.server_port}/{path.name}")
        monkeypatch.setattr(tinyimagenet, "MD5", hashlib.md5(path.read_bytes()).hexdigest())
        monkeypatch.setattr(tinyimagenet, "COUNTS", {"train": 6, "test": 4})
        yield path
        server.shutdown()


def unreachable(monkeypatch) -> None:
    monkeypatch.setattr(tinyimagenet, "URL", tinyimagenet.URL.replace(".zip", ".not"))


def test_images_classes_and_what_a_run_gets(tmp_path, archive, jpegs, monkeypatch, capsys):
    root = tmp_path / "new" / "root"
    dataset = load_made(root)
    assert [path.name for path in root.iterdir()] == ["tinyimagenet.npz"]
    assert dataset.class_names == ("ox", "goldfish", "tractor")
    for part, split in (("train", dataset.train), ("val", dataset.test)):
        expected = {}
        for name, jpeg in jpegs.items():
            if name.startswith(part):
                pixels = np.asarray(Image.open(io.BytesIO(jpeg)))
                pixels = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
                expected[pixels.tobytes()] = sorted(WORDS).index(VAL.get(name.split("/")[-1]) or name.split("/")[1])
        pixels = [image.permute(1, 2, 0).contiguous().numpy().tobytes() for image in split.images]
        assert dict(zip(pixels, split.labels.tolist())) == expected
        assert len(pixels) == len(expected)
    assert (dataset.name, dataset.batch_size, dataset.padding, dataset.flip) == ("tinyimagenet", 128, 4, True)
    assert dataset.validation is None
    unreachable(monkeypatch)
    tinyimagenet.main([str(root)])
    assert capsys.readouterr().out == f"{root / 'tinyimagenet.npz'}\n"
    assert load_made(root).fingerprint == dataset.fingerprint
    assert load_test("tinyimagenet", root=root).fingerprint() == dataset.test.fingerprint()
    held_out = load("tinyimagenet", root=root, holdout_per_class=1)
    assert held_out.validation.labels.tolist() == [0, 1, 2]
    pixels = [
        [image.numpy().tobytes() for image in split.images] for split in (*held_out.splits().values(), dataset.train)
    ]
    train, validation, _, whole = pixels
    assert sorted(train + validation) == sorted(whole)


def test_from_what_is_in_root_already(tmp_path, archive, monkeypatch):
    downloaded = load_made(tmp_path / "downloaded")
    unreachable(monkeypatch)
    with zipfile.ZipFile(archive) as content:
        content.extractall(tmp_path / "unpacked")
    for root, stays in ((archive.parent, archive), (tmp_path / "unpacked", tmp_path / "unpacked" / archive.stem)):
        assert load_made(root).fingerprint == downloaded.fingerprint
        assert sorted(root.iterdir()) == [stays, root / "tinyimagenet.npz"]
    (tmp_path / "unpacked" / "tinyimagenet.npz").unlink()
    (tmp_path / "unpacked" / archive.stem / "words.txt").unlink()
    assert load_made(tmp_path / "unpacked").class_names == ("n01", "n02", "n03")


@pytest.mark.faults
@pytest.mark.parametrize("changed", ["MD5", "URL"])
def test_what_cannot_be_downloaded(tmp_path, archive, monkeypatch, changed):
    monkeypatch.setattr(tinyimagenet, changed, {"MD5": "0" * 32, "URL": tinyimagenet.URL + ".not"}[changed])
    says = {"MD5": "File not found or corrupted.", "URL": "HTTP Error 404: File not found"}[changed]
    root = tmp_path / "root"
    words = rf"tinyimagenet is not in root '{root}'; it takes .*200.zip or the download of http.*, MD5 .*: {says}"
    with pytest.raises(FileNotFoundError, match=words):
        tinyimagenet.make(root)
    assert not root.exists()


@pytest.mark.faults
def test_a_full_disk_leaves_nothing(tmp_path, archive, monkeypatch):
    def fails(path, **arrays):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", fails)
    with pytest.raises(OSError, match="No space left on device"):
        tinyimagenet.make(tmp_path / "root")
    assert not (tmp_path / "root").exists()


@pytest.mark.faults
def test_what_is_not_the_real_one(tmp_path, archive):
    short = tmp_path / "tiny-imagenet-200.zip"
    short.write_bytes(archive.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"200.zip must be the real archive, of MD5 checksum [0-9a-f]{32}"):
        tinyimagenet.make(tmp_path)
    assert len(short.read_bytes()) == len(archive.read_bytes()) - 1
    with zipfile.ZipFile(archive) as content:
        content.extractall(tmp_path / "root")
    folder = tmp_path / "root" / archive.stem
    (folder / "train" / "n02" / "images" / "n02_1.JPEG").unlink()
    with pytest.raises(ValueError, match="must be the whole TinyImageNet with 6 train images of 3 classes, got 5"):
        tinyimagenet.make(tmp_path / "root")
    (folder / "val" / "val_annotations.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"val_annotations\.txt"):
        tinyimagenet.make(tmp_path / "root")
    assert [path.name for path in (tmp_path / "root").iterdir()] == [archive.stem]


@pytest.mark.faults
@pytest.mark.parametrize("member", ["../evil", "../../../evil", "{root}/evil"])
def test_members_that_climb_out_of_the_archive_are_unpacked_nowhere_else(tmp_path, archive, monkeypatch, member):
    """Also where its checksum is the expected one."""
    with zipfile.ZipFile(archive, "a") as content:
        content.writestr(member.format(root=tmp_path), b"evil")
    monkeypatch.setattr(tinyimagenet, "MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    load_made(tmp_path / "root")
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert files == [tmp_path / "root" / "tinyimagenet.npz", archive]
