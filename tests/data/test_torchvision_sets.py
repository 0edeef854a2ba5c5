"""The torchvision sets, written tiny in their own layouts on disk."""

from __future__ import annotations

import pickle
import struct

import numpy as np
import pytest
import torch

from ddoq_plugin.data import load_data
from ddoq_plugin.errors import DataError

RNG = np.random.default_rng(0)
LABELS = np.arange(30) % 10


def write_mnist(root, folder):
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    images = RNG.integers(0, 256, (30, 28, 28), dtype=np.uint8)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, 30, 28, 28) + images.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, 30) + bytes(LABELS.tolist()))
    return images


def dump(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))


def without_checksums(monkeypatch):
    """Let torchvision take files that are not the published ones."""
    import torchvision.datasets as sets

    monkeypatch.setattr(sets.cifar, "check_integrity", lambda *_: True)
    monkeypatch.setattr(sets.svhn, "check_integrity", lambda *_: True)
    monkeypatch.setattr(sets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(sets.STL10, "_check_integrity", lambda self: True)


@pytest.mark.parametrize(
    ("name", "folder", "first"), [("mnist", "MNIST", "zero"), ("fashion_mnist", "FashionMNIST", "T-shirt/top")]
)
def test_mnist_and_its_relative(tmp_path, name, folder, first):
    images = write_mnist(tmp_path, folder)
    data = load_data(name, root=tmp_path)
    assert (data.image_size, data.num_classes, data.class_names[0]) == (32, 10, first)
    assert torch.equal(data.test.images()[:, 1, 2:-2, 2:-2], torch.from_numpy(images))
    assert data.class_counts("val").tolist() == [1] * 10


def test_cifar10(tmp_path, monkeypatch):
    without_checksums(monkeypatch)
    folder, images = tmp_path / "cifar-10-batches-py", RNG.integers(0, 256, (30, 3072), dtype=np.uint8)
    for batch in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        dump(folder / batch, {"data": images, "labels": LABELS.tolist()})
    dump(folder / "batches.meta", {"label_names": [f"thing {i}" for i in range(10)]})
    data = load_data("cifar10", root=tmp_path)
    assert (len(data.train) + len(data.val), len(data.test), data.class_names[3]) == (150, 30, "thing 3")
    assert torch.equal(data.test.images(), torch.from_numpy(images).view(30, 3, 32, 32))


def test_cifar100(tmp_path, monkeypatch):
    without_checksums(monkeypatch)
    images, labels = RNG.integers(0, 256, (300, 3072), dtype=np.uint8), (np.arange(300) % 100).tolist()
    for part in ("train", "test"):
        dump(tmp_path / "cifar-100-python" / part, {"data": images, "fine_labels": labels})
    dump(tmp_path / "cifar-100-python" / "meta", {"fine_label_names": [f"thing {i}" for i in range(100)]})
    data = load_data("cifar100", path=tmp_path, classes=["thing 7", "thing 99"], image_size=16)
    assert (data.class_names, data.image_size, len(data.test)) == (("thing 7", "thing 99"), 16, 6)


def test_svhn(tmp_path, monkeypatch):
    from scipy.io import savemat

    without_checksums(monkeypatch)
    images = RNG.integers(0, 256, (32, 32, 3, 30), dtype=np.uint8)
    for part in ("train", "test"):  # on disk the digit zero has the label 10
        savemat(tmp_path / f"{part}_32x32.mat", {"X": images, "y": np.where(LABELS == 0, 10, LABELS)[:, None]})
    data = load_data("svhn", root=tmp_path)
    assert torch.equal(data.test.images(), torch.from_numpy(images).permute(3, 2, 0, 1))
    assert (data.test.labels.tolist(), data.class_names[0]) == (LABELS.tolist(), "zero")


def test_stl10(tmp_path, monkeypatch):
    without_checksums(monkeypatch)
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    (folder / "class_names.txt").write_text("".join(f"thing {i}\n" for i in range(10)))
    images = RNG.integers(0, 256, (30, 3, 96, 96), dtype=np.uint8)  # on disk columns come before rows
    for part in ("train", "test"):
        images.tofile(folder / f"{part}_X.bin")
        (LABELS + 1).astype(np.uint8).tofile(folder / f"{part}_y.bin")
    data = load_data("stl10", root=tmp_path)
    assert (data.image_size, data.class_names[9]) == (96, "thing 9")
    assert torch.equal(data.test.images(), torch.from_numpy(images).transpose(2, 3))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mnist", "MNIST/raw/train-images-idx3-ubyte"),
        ("fashion_mnist", "FashionMNIST/raw"),
        ("cifar10", "data_batch_1"),
        ("cifar100", "cifar-100-python/train"),
        ("svhn", "train_32x32.mat"),
        ("stl10", "stl10_binary/train_X.bin"),
    ],
)
def test_missing_files_name_the_root_the_files_and_the_mend(tmp_path, name, file):
    with pytest.raises(DataError) as raised:
        load_data(name, root=tmp_path / "nowhere")
    assert all(text in str(raised.value) for text in (str(tmp_path / "nowhere"), file, "download: true"))
    assert not (tmp_path / "nowhere").exists()  # looking never makes folders


def test_damaged_files_are_named(tmp_path):
    write_mnist(tmp_path, "MNIST")
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03 too short")
    with pytest.raises(DataError, match="mnist is not in .* or is damaged"):
        load_data("mnist", root=tmp_path)


def test_a_failed_download_says_so(tmp_path, monkeypatch):
    from urllib.error import URLError

    import torchvision.datasets as sets

    def no_network(self):
        raise URLError("no route")

    monkeypatch.setattr(sets.CIFAR10, "download", no_network)
    with pytest.raises(DataError, match="could not be downloaded to"):
        load_data("cifar10", root=tmp_path, download=True)
