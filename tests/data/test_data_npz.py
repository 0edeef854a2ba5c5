"""Packs of arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ddoq_plugin.data import load_data
from ddoq_plugin.errors import DataError


def pack(**changes):
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8),
        "y_train": np.arange(12) % 2,
        "x_test": rng.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8),
        "y_test": np.arange(4) % 2,
        "class_names": np.array(["cat", "dog"]),
    }
    arrays.update(changes)
    return {key: value for key, value in arrays.items() if value is not None}


def save(folder, **changes):
    path = folder / "toy.npz"
    np.savez(path, **pack(**changes))
    return path


def test_a_pack_is_read_as_it_was_written(tmp_path):
    data = load_data(f"npz:{save(tmp_path)}", val_fraction=0.2)
    assert (data.name, data.class_names, data.image_size) == ("toy", ("cat", "dog"), 8)
    assert torch.equal(data.test.images(), torch.from_numpy(pack()["x_test"]).permute(0, 3, 1, 2))
    assert (len(data.train), len(data.val)) == (10, 2)
    assert load_data("npz", path=tmp_path / "toy.npz", val_fraction=0.2).fingerprint == data.fingerprint


def test_grey_packs_of_28_pixels_are_padded(tmp_path):
    grey = {"x_train": np.ones((12, 28, 28), np.uint8), "x_test": np.ones((4, 28, 28), np.uint8)}
    assert load_data(f"npz:{save(tmp_path, **grey)}").train.images().shape[1:] == (3, 32, 32)


def test_without_names_classes_are_numbered_and_this_is_noted(tmp_path):
    data = load_data(f"npz:{save(tmp_path, class_names=None)}")
    assert data.class_names == ("0", "1")
    assert "class_names" in data.notes[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x_test": None}, "no array 'x_test'"),
        ({"x_train": np.zeros((12, 8, 8, 3), np.float32)}, "x_train must be uint8"),
        ({"x_train": np.zeros((12, 8, 8, 4), np.uint8)}, r"x_train must be \[n, H, W, 3\]"),
        ({"x_train": np.zeros((12, 8, 9, 3), np.uint8)}, "8x9, not square"),
        ({"x_test": np.zeros((4, 9, 9, 3), np.uint8)}, "differ in size"),
        ({"y_train": np.zeros(5, np.int64)}, "y_train must be 12 integers"),
        ({"y_train": np.zeros(12)}, "y_train must be 12 integers"),
        ({"y_train": np.full(12, 2)}, "label 2, but there are 2 class names"),
        ({"class_names": np.array(["cat"])}, "label 1, but there are 1 class names"),
        ({"class_names": np.array([1, 2])}, "class_names must be a list of strings"),
        ({"class_names": np.array(["a", "b"], dtype=object)}, "without pickle"),
    ],
)
def test_what_is_wrong_with_a_pack_is_named(tmp_path, changes, words):
    with pytest.raises(DataError, match=words):
        load_data(f"npz:{save(tmp_path, **changes)}")


def test_a_missing_a_cut_and_a_foreign_file_are_named(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        load_data("npz:nowhere.npz")
    path = save(tmp_path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="toy.npz is damaged"):
        load_data(f"npz:{path}")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(DataError, match="text.npz"):
        load_data(f"npz:{tmp_path / 'text.npz'}")
    np.save(tmp_path / "single.npy", np.zeros(3))
    with pytest.raises(DataError, match="single array"):
        load_data(f"npz:{tmp_path / 'single.npy'}")
