"""Downloads from a server on this machine that answers well, badly or not to the end."""

import contextlib
import hashlib
import http.server
import io
import pickle
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from torchvision import datasets

from mmlib.experiments.data import downloads, sources, tinyimagenet
from mmlib.experiments.data.downloads import scratch_folder
from mmlib.experiments.data.sources import load, load_test

HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
ANSWERS = {
    "breaks off": HEAD + b"Content-Length: 100000\r\n\r\n" + b"half" * 1000,
    "has another checksum": HEAD + b"Content-Length: 5\r\n\r\nother",
    "breaks off in a chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n100\r\nhalf",
    "is no HTTP": b"SSH-2.0-OpenSSH_9.6\r\nmore\r\n",
    "is nothing": b"",
    "is an error": b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
    "stalls": HEAD + b"Content-Length: 100000\r\n\r\nhalf, and then nothing",
}


@contextlib.contextmanager
def serve(answer: bytes):
    """A server that gives every request this answer, byte for byte; its address."""
    over = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.wfile.write(answer)
            if answer == ANSWERS["stalls"]:
                over.wait()
            self.close_connection = True

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/file"
        over.set()
        server.shutdown()


def contents(root: Path) -> dict[str, bytes] | None:
    """Every file below a folder, or None where there is no such folder."""
    files = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return files if root.exists() else None


def get(name: str, root: Path) -> None:
    """Ask for a data set, as a run or the making of an archive does."""
    {"svhn": load_test, "tinyimagenet": lambda _, root: tinyimagenet.make(root)}.get(name, load)(name, root=root)


def take_from(monkeypatch, url: str) -> None:
    for source in (datasets.CIFAR10, datasets.CIFAR100):
        monkeypatch.setattr(source, "url", url)
    monkeypatch.setattr(datasets.SVHN, "split_list", {"test": [url, "test_32x32.mat", "0" * 32]})
    monkeypatch.setattr(tinyimagenet, "URL", url)


HELD = {  # what an earlier program has left half-written, or a user keeps there
    "cifar10": "cifar-10-python.tar.gz",
    "cifar100": "cifar-100-python/train",
    "svhn": "test_32x32.mat",
    "tinyimagenet": "notes.txt",
}


@pytest.mark.faults
@pytest.mark.parametrize("name", HELD)
@pytest.mark.parametrize("answer", ANSWERS)
def test_a_failed_download_leaves_the_root_as_it_was(tmp_path, monkeypatch, name, answer):
    held = tmp_path / "there" / HELD[name]
    held.parent.mkdir(parents=True)
    held.write_bytes(b"as it was")
    monkeypatch.setattr(downloads, "SILENT_SECONDS", 0.3)
    with serve(ANSWERS[answer]) as url:
        take_from(monkeypatch, url)
        for root in (tmp_path / "new" / "root", tmp_path / "there"):
            before = contents(root)
            with pytest.raises(FileNotFoundError, match=rf"^{name} is not in root '{root}'; it takes .+: .+") as caught:
                get(name, root)
            assert "\n" not in str(caught.value)
            assert contents(root) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]
    assert [path.name for path in (tmp_path / "there").iterdir()] == [HELD[name].split("/")[0]]


@pytest.fixture
def cifar(monkeypatch) -> bytes:
    """CIFAR-10's archive in miniature, with its checksums."""
    monkeypatch.setattr(sources, "KNOWN_FINGERPRINTS", {})
    rows = np.random.default_rng(0).integers(0, 256, (6, 3072), dtype=np.uint8)
    batches = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]
    files = {name: {"data": rows[k : k + 1], "labels": [k]} for k, name in enumerate(batches)}
    files["batches.meta"] = {"label_names": list("abcdefghij")}
    files = {name: pickle.dumps(content) for name, content in files.items()}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    sums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [[name, sums[name]] for name in batches[:5]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(datasets.CIFAR10, "meta", datasets.CIFAR10.meta | {"md5": sums["batches.meta"]})
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5(buffer.getvalue()).hexdigest())
    return buffer.getvalue()


def whole(content: bytes) -> bytes:
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(content) + content


def test_a_download_is_kept_and_damaged_files_are_replaced(tmp_path, monkeypatch, cifar):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").write_bytes(b"half")
    (tmp_path / "cifar-10-batches-py" / "notes.txt").write_text("mine")
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"half")
    with serve(whole(cifar)) as url:
        take_from(monkeypatch, url)
        dataset = load("cifar10", root=tmp_path)
    assert dataset.train.labels.tolist() == [0, 1, 2, 3, 4]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cifar-10-batches-py", "cifar-10-python.tar.gz"]
    assert (tmp_path / "cifar-10-python.tar.gz").read_bytes() == cifar
    assert (tmp_path / "cifar-10-batches-py" / "notes.txt").read_text() == "mine"
    assert load("cifar10", root=tmp_path).fingerprint == dataset.fingerprint  # the server is gone


def test_an_archive_in_root_needs_no_network(tmp_path, monkeypatch, cifar):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(cifar)
    take_from(monkeypatch, "http://127.0.0.1:9/nothing")
    assert load("cifar10", root=tmp_path).class_names == tuple("abcdefghij")


def test_svhn_is_downloaded_once(tmp_path, monkeypatch):
    buffer = io.BytesIO()
    savemat(buffer, {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[1], [10]])})
    with serve(whole(buffer.getvalue())) as url:
        checksum = hashlib.md5(buffer.getvalue()).hexdigest()
        monkeypatch.setattr(datasets.SVHN, "split_list", {"test": [url, "test_32x32.mat", checksum]})
        assert load_test("svhn", root=tmp_path / "new").labels.tolist() == [1, 0]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["test_32x32.mat"]
    assert load_test("svhn", root=tmp_path / "new").labels.tolist() == [1, 0]


def test_a_scratch_folder_leaves_nothing_that_was_not_there(tmp_path):
    (tmp_path / "there").mkdir()

    def fail(root):
        with scratch_folder("set", root) as folder:
            (folder / "half").write_text("x")
            raise OSError("full")

    for root in (tmp_path / "a" / "b", tmp_path / "there"):
        with pytest.raises(OSError, match="full"):
            fail(root)
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]
    with scratch_folder("set", tmp_path / "a" / "b") as folder:
        assert folder.parent == tmp_path / "a" / "b"
        (folder / "file").write_text("x")
        (folder / "file").rename(folder.parent / "file")
    assert [path.name for path in (tmp_path / "a").rglob("*")] == ["b", "file"]
