"""Data sets from archives and folders that are written here."""

import io
import os
import pickle
import shutil
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmlib.experiments.data import files
from mmlib.experiments.data.files import load_rgb
from mmlib.experiments.data.sources import load
from mmlib.experiments.data.split import Split


def joined(splits) -> list[bytes]:
    """Every image of some splits, sorted: equal lists are equal multisets."""
    return sorted(image.numpy().tobytes() for split in splits for image in split.images)


def same(one: Split, other: Split) -> bool:
    return torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """Eight colour images of each of three classes to train on, two to test."""
    rng = np.random.default_rng(0)
    return {
        "train_images": rng.integers(0, 256, (24, 16, 16, 3), dtype=np.uint8),
        "train_labels": rng.permutation(np.arange(24) % 3).astype(np.uint8)[:, None],
        "test_images": rng.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8),
        "test_labels": np.arange(6) % 3,
    }


def saved(folder, arrays) -> str:
    np.savez(folder / "set.npz", **arrays)
    return str(folder / "set.npz")


def test_npz(tmp_path, arrays):
    dataset = load(saved(tmp_path, arrays))
    assert np.array_equal(dataset.train.images.permute(0, 2, 3, 1), arrays["train_images"])
    assert dataset.train.labels.tolist() == arrays["train_labels"][:, 0].tolist()
    assert np.array_equal(dataset.test.images.permute(0, 2, 3, 1), arrays["test_images"])
    assert dataset.test.labels.tolist() == arrays["test_labels"].tolist()
    assert dataset.validation is None
    assert (dataset.name, dataset.class_names) == ("set", ("0", "1", "2"))
    assert (dataset.batch_size, dataset.padding, dataset.flip) == (128, 2, True)


def test_npz_in_grey_with_validation_and_names(tmp_path, arrays):
    grey = {key: value[..., 0] if key.endswith("images") else value for key, value in arrays.items()}
    grey |= {"val_images": grey["test_images"][:3], "val_labels": grey["test_labels"][:3]}
    dataset = load(saved(tmp_path, grey | {"class_names": np.array(["ant", "bee", "cat", "dog"])}))
    assert dataset.class_names == ("ant", "bee", "cat", "dog")
    assert np.array_equal(dataset.validation.images[:, 0], grey["val_images"])
    assert (dataset.channels, len(dataset.validation)) == (1, 3)
    with pytest.raises(ValueError, match="holdout_per_class must be 0 for set, which has a validation split, got 1"):
        load(str(tmp_path / "set.npz"), holdout_per_class=1)


def test_labelled_and_held_out_images_are_exact_and_disjoint(tmp_path, arrays):
    name = saved(tmp_path, arrays)
    whole = load(name).train
    label_of = {image.numpy().tobytes(): int(label) for image, label in zip(whole.images, whole.labels)}
    runs = {
        (k, seed): load(name, labelled_per_class=k, holdout_per_class=3, seed=seed) for k in (2, 5) for seed in (0, 1)
    }
    for (k, _), run in runs.items():
        assert run.train.labels.bincount().tolist() == [k] * 3
        assert run.validation.labels.bincount().tolist() == [3] * 3
        assert same(run.validation, runs[2, 0].validation)
        for split in (run.train, run.validation):
            assert [label_of[image.numpy().tobytes()] for image in split.images] == split.labels.tolist()
        if k == 5:
            assert joined([run.train, run.validation]) == sorted(label_of)
        assert set(joined([runs[2, 0].train])) <= set(joined([runs[5, 0].train]))
    assert joined([runs[2, 0].train]) != joined([runs[2, 1].train])
    assert len(load(name, holdout_per_class=3).train) == 15


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"train_labels": None}, "must have train_labels, got train_images, test_images, test_labels"),
        ({"train_labels": np.arange(23)}, "train_labels must have a row for each of 24 images, got 23"),
        (
            {"train_labels": np.zeros((24, 14), int)},
            r"train_labels must be integers .*, got int64 of shape \(24, 14\)",
        ),
        ({"train_labels": np.zeros(24)}, "train_labels must be integers of shape .*, got float64"),
        ({"test_labels": np.array([0, 1, 2, 0, 1, -1])}, "test_labels must be among train's and not negative, got -1"),
        ({"test_labels": np.array([0, 1, 2, 0, 7, 5])}, "test_labels must be among train's and not negative, got 5, 7"),
        ({"train_labels": np.full(24, 2**64 - 1, np.uint64)}, rf"train_labels must be below 2\^63, got {2**64 - 1}"),
        ({"train_labels": np.arange(24) - 1}, "train_labels must be among train's and not negative, got -1"),
        ({"class_names": np.array(["a", "b"])}, "train labels must be from 0 to 1 for 2 class names, got 0 to 2"),
        (
            {"class_names": np.array(["a", 1, None], dtype=object)},
            "must be an .npz archive of arrays, and cannot be read: Object arrays",
        ),
        (
            {"test_images": np.zeros((6, 16, 16, 3))},
            r"test_images .*, got float64 of shape \(6, 16, 16, 3\)",
        ),
        (
            {"train_images": np.zeros((24, 16, 16, 16), np.uint8)},
            r"train_images .*, got uint8 of shape \(24, 16, 16, 16\)",
        ),
        (
            {"train_images": np.zeros((24, 0, 0, 3), np.uint8)},
            r"train_images must be uint8 .*, got uint8 of shape \(24, 0, 0, 3\)",
        ),
        ({"class_names": np.array([b"ant", b"bee", b"\xff"])}, "class_names must be text, or bytes in UTF-8: "),
        ({"train_images": np.zeros((24, 16, 12), np.uint8)}, "images must be square, got 16 x 12 pixels"),
        (
            {"test_images": np.zeros((6, 16, 16), np.uint8)},
            r"test images must have the shape of train's, \(3, 16, 16\), got \(1, 16, 16\)",
        ),
        (
            {"test_images": np.zeros((0, 16, 16, 3), np.uint8), "test_labels": np.arange(0)},
            "test split must have images, got none",
        ),
    ],
)
def test_npz_that_is_no_data_set(tmp_path, arrays, change, says):
    left = {key: value for key, value in (arrays | change).items() if value is not None}
    with pytest.raises(ValueError, match=says):
        load(saved(tmp_path, left))


@pytest.fixture
def folder(tmp_path, arrays):
    """The arrays as class folders, with what a file system leaves in them."""
    for part in ("train", "test"):
        for number, (image, label) in enumerate(zip(arrays[f"{part}_images"], arrays[f"{part}_labels"].ravel())):
            place = tmp_path / "pets" / part / ("cat", "ant", "bee")[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{number:02}.{('png', 'bmp', 'PNG')[number % 3]}")
            (place / "notes.txt").write_text("not an image")
            (place / "._00.png").write_text("not an image")
        (tmp_path / "pets" / part / ".ipynb_checkpoints").mkdir()
    return tmp_path / "pets"


def test_folder(folder, arrays):
    dataset = load(str(folder), labelled_per_class=8)
    assert dataset.class_names == ("ant", "bee", "cat")
    assert (dataset.name, dataset.padding, dataset.validation) == ("pets", 2, None)
    for part, split in (("train", dataset.train), ("test", dataset.test)):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"].reshape(-1)
        expected = [(number, images[k]) for number, old in enumerate((1, 2, 0)) for k in np.nonzero(labels == old)[0]]
        assert split.labels.tolist() == [label for label, _ in expected]
        assert np.array_equal(split.images.permute(0, 2, 3, 1), np.stack([image for _, image in expected]))


def test_folder_with_validation_and_grey_images(folder):
    for name in ("ant", "bee", "cat"):
        (folder / "val" / name).mkdir(parents=True)
        Image.new("L", (16, 16), 7).save(folder / "val" / name / "0.png")
    validation = load(str(folder)).validation
    assert validation.images.shape == (3, 3, 16, 16)
    assert validation.images.unique().tolist() == [7]


def test_folders_that_are_no_data_set(folder):
    Image.new("RGB", (16, 17)).save(folder / "train" / "bee" / "odd.png")
    with pytest.raises(ValueError, match=r"bee/odd.png must have 16 x 16 pixels as .*ant/.*, got 16 x 17"):
        load(str(folder))
    for file in (folder / "train" / "bee").iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match="train/bee must have images"):
        load(str(folder))
    (folder / "train" / "bee").rmdir()
    with pytest.raises(ValueError, match="must have the same classes, got a difference: bee"):
        load(str(folder))
    with pytest.raises(FileNotFoundError, match="got no folder 'train'"):
        load(str(folder / "train"))
    (folder / "val").mkdir()
    with pytest.raises(FileNotFoundError, match="val must have a folder for each class, got none"):
        load(str(folder))


@pytest.mark.parametrize("ids", [(1, 2, 3), (7, 1500, 3000), (0, 1, 3)])
def test_labels_without_class_names_are_any_ids(tmp_path, arrays, ids):
    labels = {f"{split}_labels": np.array(ids)[arrays[f"{split}_labels"]] for split in ("train", "test")}
    dataset, plain = load(saved(tmp_path, arrays | labels)), load(saved(tmp_path, arrays))
    assert dataset.class_names == tuple(map(str, ids))
    assert same(dataset.train, plain.train)
    assert same(dataset.test, plain.test)


def test_labels_that_start_at_1_beside_class_names_are_refused(tmp_path, arrays):
    labels = {f"{split}_labels": arrays[f"{split}_labels"] + 1 for split in ("train", "test")}
    with pytest.raises(ValueError, match="train labels must be from 0 to 2 for 3 class names, got 1 to 3"):
        load(saved(tmp_path, arrays | labels | {"class_names": ["a", "b", "c"]}))


@pytest.mark.parametrize("names", [[b"ant", b"bee", b"cat"], [["ant"], ["bee"], ["cat"]]])
def test_class_names_as_bytes_or_a_column(tmp_path, arrays, names):
    assert load(saved(tmp_path, arrays | {"class_names": np.array(names)})).class_names == ("ant", "bee", "cat")


@pytest.mark.parametrize("names", ["ant", [["ant", "bee", "cat"]]])
def test_class_names_that_are_no_list_are_refused(tmp_path, arrays, names):
    with pytest.raises(ValueError, match=r"class_names must be of shape \(c,\) or \(c, 1\), got \("):
        load(saved(tmp_path, arrays | {"class_names": np.array(names)}))


@pytest.mark.faults
@pytest.mark.parametrize("place", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("damage", [b"\xff" * 40, b"\x00" * 40, b""])
def test_a_damaged_archive_ends_in_one_line(tmp_path, arrays, place, damage):
    np.savez_compressed(tmp_path / "set.npz", **arrays)
    content = (tmp_path / "set.npz").read_bytes()
    at = int(len(content) * place)
    (tmp_path / "set.npz").write_bytes(content[:at] + damage + content[at + len(damage) :] * bool(damage))
    with pytest.raises(ValueError, match=r"set.npz must be an .npz archive of arrays, and cannot be read: ") as caught:
        load(str(tmp_path / "set.npz"))
    assert "\n" not in str(caught.value)


class Payload:
    """An object whose unpickling makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.faults
@pytest.mark.parametrize("form", ["labels", "class_names", "plain pickle"])
def test_code_in_an_archive_is_never_run(tmp_path, arrays, form):
    payload = Payload(tmp_path / "run")
    name = saved(tmp_path, arrays | {"labels": {"train_labels": objects(payload, 24)}}.get(form, {}))
    if form == "class_names":
        name = saved(tmp_path, arrays | {"class_names": objects(payload, 3)})
    elif form == "plain pickle":
        (tmp_path / "set.npz").write_bytes(pickle.dumps(payload))
    with pytest.raises(ValueError, match=r"set\.npz must be an \.npz archive of arrays, and cannot be read: "):
        load(name)
    assert not payload.path.exists()
    pickle.loads(pickle.dumps(payload))
    assert payload.path.exists()  # it works where it is run


def objects(payload, count) -> np.ndarray:
    return np.array([payload] * count, dtype=object)


@pytest.mark.faults
@pytest.mark.parametrize("place", ["../", "../../../", "/"])
def test_members_that_climb_out_of_an_archive_are_written_nowhere(tmp_path, arrays, place):
    (tmp_path / "inner").mkdir()
    prefix = place if place != "/" else f"{tmp_path}/"
    with zipfile.ZipFile(tmp_path / "inner" / "set.npz", "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            archive.writestr(f"{prefix if name == 'test_images' else ''}{name}.npy", buffer.getvalue())
    with pytest.raises(ValueError, match=r"set\.npz must have test_images, got "):
        load(str(tmp_path / "inner" / "set.npz"))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["set.npz"]


@pytest.mark.faults
@pytest.mark.parametrize("shape", [(10**13, 16, 16, 3), (2**70, 16, 16, 3), (-24, 16, 16, 3)])
def test_an_archive_that_claims_more_than_any_memory_ends_in_one_line(tmp_path, arrays, shape):
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            if name == "train_images":
                np.lib.format.write_array_header_1_0(buffer, header)
            else:
                np.save(buffer, array)
            archive.writestr(f"{name}.npy", buffer.getvalue())
    with pytest.raises(
        ValueError, match=r"set\.npz must be an \.npz archive of arrays, and cannot be read: "
    ) as caught:
        load(str(tmp_path / "set.npz"))
    assert "\n" not in str(caught.value)


@pytest.mark.faults
def test_an_archive_that_unpacks_to_more_than_the_memory_is_not_unpacked(tmp_path, arrays, monkeypatch):
    """A megabyte of zeros is a kilobyte of file."""
    name = tmp_path / "set.npz"
    np.savez_compressed(name, **arrays | {"train_images": np.zeros((4096, 16, 16), np.uint8)})
    assert name.stat().st_size < 2**15
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 256, "SC_PAGE_SIZE": 4096}.get)  # 1 MiB
    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", lambda *_: pytest.fail("unpacked"))
    with pytest.raises(ValueError, match=r"set\.npz must be .*: its arrays take 1\.0 MiB, and the memory is 1\.0"):
        load(str(name))
    monkeypatch.undo()
    with pytest.raises(ValueError, match="train_labels must have a row for each of 4096 images"):
        load(str(name))


@pytest.mark.faults
@pytest.mark.parametrize(
    ("groups", "limits", "allowed"),
    [
        ("0::/\n", {"memory.max": "1048576"}, "1.0 MiB"),  # a container's
        ("0::/jobs/7/0\n", {"jobs/7/memory.max": "1048576", "jobs/7/0/memory.max": "max"}, "1.0 MiB"),  # a batch job's
        ("0::/jobs/7\n", {"jobs/memory.max": "2097152", "jobs/7/memory.max": "1048576"}, "1.0 MiB"),
        ("9:pids:/\n4:memory:/docker/8f\n0::/\n", {"memory/memory.limit_in_bytes": "1048576"}, "1.0 MiB"),
        ("4:cpu,memory:/a:b\n", {"memory/a:b/memory.limit_in_bytes": "1048576"}, "1.0 MiB"),
        ("0::/\n", {"memory.max": "max"}, None),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("9:pids:/theirs\n4:memory:/\n", {"memory/theirs/memory.limit_in_bytes": "1048576"}, None),
        ("0::/\n", {}, None),
        (None, {}, None),  # another system than Linux
    ],
)
def test_the_memory_of_a_container_or_a_batch_job_counts(tmp_path, arrays, monkeypatch, groups, limits, allowed):
    name = tmp_path / "set.npz"
    np.savez_compressed(name, **arrays | {"train_images": np.zeros((8192, 16, 16), np.uint8)})
    for place, limit in limits.items():
        (tmp_path / "cgroup" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / place).write_text(f"{limit}\n")
    if groups:
        (tmp_path / "self").write_text(groups)
    monkeypatch.setattr(files, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(files, "OWN_CGROUPS", tmp_path / "self")
    says = f"its arrays take 2.0 MiB, and the memory is {allowed}" if allowed else "train_labels must have a row for"
    with pytest.raises(ValueError, match=rf"set\.npz.* {says}"):
        load(str(name))


@pytest.mark.faults
def test_a_picture_that_claims_gigabytes_is_not_unpacked(tmp_path):
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b""))
    with pytest.raises(
        ValueError, match=r"a\.png cannot be read as an image: Image size \(3600000000 pixels\) exceeds"
    ):
        load_rgb(tmp_path / "a.png")


@pytest.mark.faults
def test_swapped_and_empty_files_are_named(tmp_path, arrays, folder):
    picture = next((folder / "train" / "ant").glob("*.png"))
    for content in (picture.read_bytes(), b"", b"\x93NUMPY"):
        (tmp_path / "set.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"set\.npz must be an \.npz archive of arrays, and cannot be read: "):
            load(str(tmp_path / "set.npz"))
    np.savez(tmp_path / "set.npz", **arrays)
    for content in ((tmp_path / "set.npz").read_bytes(), b""):
        picture.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{picture} cannot be read as an image: "):
            load(str(folder))
    picture.unlink()
    picture.mkdir()
    with pytest.raises(ValueError, match=rf"{picture} cannot be read as an image: "):
        load(str(folder))


@pytest.mark.faults
@pytest.mark.parametrize(
    ("mode", "suffix"), [("CMYK", "jpg"), ("CMYK", "tif"), ("P", "gif"), ("P", "png"), ("1", "bmp")]
)
def test_pictures_of_any_mode_are_their_colours(tmp_path, mode, suffix):
    colour = (255, 255, 255) if mode == "1" else (0, 255, 255)
    Image.new("RGB", (4, 6), colour).convert(mode).save(tmp_path / f"a.{suffix}")
    found = np.asarray(load_rgb(tmp_path / f"a.{suffix}"))
    assert found.shape == (6, 4, 3)
    assert np.abs(found.astype(int) - colour).max() <= 2  # JPEG rounds


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_validation_folders_have_any_usual_name(folder, name):
    shutil.copytree(folder / "test", folder / name)
    dataset = load(str(folder))
    assert same(dataset.validation, dataset.test)
    if name != "val":
        shutil.copytree(folder / "test", folder / "val")
        with pytest.raises(ValueError, match=f"must have one folder of validation images, got val, {name}"):
            load(str(folder))


@pytest.mark.faults
@pytest.mark.parametrize("name", ["dev", "Val", "TRAIN", "unlabelled", "train2"])
@pytest.mark.parametrize("size", [None, 16])
def test_folders_that_would_be_passed_over_are_named(folder, name, size):
    (folder / name).mkdir()
    with pytest.raises(ValueError, match=rf"{folder} must have no folders but train, test, val, valid, .*, got {name}"):
        load(str(folder), size=size)


def test_files_and_hidden_folders_beside_the_splits_are_passed_over(folder):
    (folder / ".git").mkdir()
    (folder / ".DS_Store").write_text("")
    (folder / "README.md").write_text("Pets.")
    (folder / "labels.csv").write_text("")
    assert len(load(str(folder)).train) == 24


@pytest.mark.faults
@pytest.mark.parametrize("name", ["valid_images", "Val_images", "dev_images", "train_images2", "ids"])
def test_arrays_that_would_be_passed_over_are_named(tmp_path, arrays, name):
    known = "train_images, train_labels, val_images, val_labels, test_images, test_labels, class_names"
    with pytest.raises(ValueError, match=rf"set\.npz must have no arrays but {known}, got {name}"):
        load(saved(tmp_path, arrays | {name: arrays["test_images"]}))


@pytest.mark.faults
@pytest.mark.parametrize("name", ["images", "labels"])
def test_half_a_validation_split_is_refused(tmp_path, arrays, name):
    with pytest.raises(ValueError, match=r"set\.npz must have val_"):
        load(saved(tmp_path, arrays | {f"val_{name}": arrays[f"test_{name}"]}))


def test_a_text_beside_the_arrays_is_passed_over(tmp_path, arrays):
    with zipfile.ZipFile(saved(tmp_path, arrays), "a") as archive:
        archive.writestr("README.md", "Pets.")
    assert len(load(str(tmp_path / "set.npz")).train) == 24


@pytest.mark.faults
def test_a_member_that_is_no_array_is_named(tmp_path, arrays):
    name = saved(tmp_path, {key: value for key, value in arrays.items() if key != "train_images"})
    with zipfile.ZipFile(name, "a") as archive:
        archive.writestr("train_images.npy", b"no array")
    with pytest.raises(ValueError, match=r"set\.npz must be .*, and cannot be read: train_images\.npy is no array"):
        load(name)


@pytest.mark.faults
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_their_exif_orientation_says(tmp_path, orientation):
    """A camera that is held upright writes a lying picture and says so."""
    upright = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8))
    Transpose = Image.Transpose
    turns = (None, Transpose.FLIP_LEFT_RIGHT, Transpose.ROTATE_180, Transpose.FLIP_TOP_BOTTOM, Transpose.TRANSPOSE)
    turns = (*turns, Transpose.ROTATE_90, Transpose.TRANSVERSE, Transpose.ROTATE_270)
    turn = turns[orientation - 1]
    exif = Image.Exif()
    exif[0x0112] = orientation
    (upright if turn is None else upright.transpose(turn)).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(np.asarray(load_rgb(tmp_path / "a.png")), np.asarray(upright))


def png_of_16_bits(channels: int) -> bytes:
    """A PNG of 2 x 2 pixels, which Pillow cannot write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 2, 2, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + b"\x12\x34" * 2 * channels for _ in range(2))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def netpbm(kind: str, most: int) -> bytes:
    """A portable anymap of 2 x 2 pixels, as text or as bytes, whose greatest value is `most`."""
    binary = (b"\x12\x34" if most > 255 else b"\x12") * 12
    return f"{kind} 2 2 {most}\n".encode() + (binary if kind in ("P5", "P6") else b"18 " * 12)


def tiff_of_16_bits(channels: int, planes: bool) -> bytes:
    """A TIFF of 2 x 2 pixels, its channels in planes or beside each other."""
    bits, lengths = 8, 8 + 2 * channels  # where the lists lie
    starts = lengths + 4 * channels
    pixels = starts + 4 * channels
    parts, each = (channels, 8) if planes else (1, 8 * channels)
    lists = struct.pack(f"<{channels}H", *[16] * channels) + struct.pack(f"<{channels}I", *[each] * channels)
    lists += struct.pack(f"<{channels}I", *(pixels + 8 * k for k in range(channels)))
    colours = {3: 2, 4: 5}[channels]
    tags = [(256, 3, 1, 2), (257, 3, 1, 2), (258, 3, channels, bits), (259, 3, 1, 1), (262, 3, 1, colours)]
    tags += [(273, 4, parts, starts if planes else pixels), (277, 3, 1, channels), (278, 3, 1, 2)]
    tags += [(279, 4, parts, lengths if planes else each), (284, 3, 1, 2 if planes else 1)]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    content = lists + b"\x34\x12" * 4 * channels
    return b"II*\0" + struct.pack("<I", 8 + len(content)) + content + directory


DEEP = {f"{channels} channels.png": png_of_16_bits(channels) for channels in (1, 2, 3, 4)}
DEEP |= {f"{kind} to {most}.ppm": netpbm(kind, most) for kind in ("P2", "P3", "P5", "P6") for most in (1023, 65535)}
DEEP |= {
    f"{channels} channels{' in planes' * planes}.tif": tiff_of_16_bits(channels, planes)
    for channels in (3, 4)
    for planes in (False, True)
}


@pytest.mark.faults
@pytest.mark.parametrize("name", DEEP)
def test_more_than_8_bits_a_channel_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(DEEP[name])
    with pytest.raises(ValueError, match=rf"{name} cannot be read as an image: .* more than 8 bits a channel"):
        load_rgb(tmp_path / name)


@pytest.mark.parametrize("kind", ["P2", "P3", "P5", "P6"])
@pytest.mark.parametrize(("most", "value"), [(255, 18), (100, 46)])
def test_anymaps_of_8_bits_or_fewer_are_read(tmp_path, kind, most, value):
    (tmp_path / "a.ppm").write_bytes(netpbm(kind, most))
    assert np.asarray(load_rgb(tmp_path / "a.ppm")).ravel().tolist() == [value] * 12


def test_a_bitmap_of_16_bits_a_pixel_is_read(tmp_path):
    """Red has five of them, green six and blue five."""
    header = struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 16, 3, 8, 0, 0, 0, 0)
    masks = struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    content = header + masks + struct.pack("<H", 0xF81F) * 4
    (tmp_path / "a.bmp").write_bytes(b"BM" + struct.pack("<IHHI", 14 + len(content), 0, 0, 66) + content)
    assert np.asarray(load_rgb(tmp_path / "a.bmp")).reshape(4, 3).tolist() == [[255, 0, 255]] * 4


@pytest.mark.faults
def test_formats_whose_depth_is_not_known_are_refused(tmp_path):
    """Pillow cuts 16 bits of an SGI file to 8, and hands an EPS file to Ghostscript."""
    for suffix in ("sgi", "eps"):
        Image.new("RGB", (4, 4)).save(tmp_path / f"a.{suffix}")
        (tmp_path / f"a.{suffix}").rename(tmp_path / "a.png")
        with pytest.raises(ValueError, match=r"a\.png cannot be read as an image: cannot identify image file"):
            load_rgb(tmp_path / "a.png")
