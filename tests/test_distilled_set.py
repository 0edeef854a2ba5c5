from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from ddoq_plugin import DistilledSet
from ddoq_plugin.distilled_set import to_uint8
from ddoq_plugin.errors import DataError
from ddoq_plugin.store.tensor_files import write_tensors

NAMES = ("cat", "tench, Tinca tinca")


def make_set(**changes):
    generator = torch.Generator().manual_seed(0)
    parts = {
        "images": torch.randint(0, 256, (5, 3, 8, 8), generator=generator, dtype=torch.uint8),
        "labels": torch.tensor([0, 0, 0, 1, 1]),
        "class_names": NAMES,
        "weights": torch.tensor([0.5, 1.5, 1.0, 1.2, 0.8]),
        "targets": torch.randn(5, 2, generator=generator),
        "provenance": {"method": "mine", "stats": {"w2_used": 0.1}},
    }
    return DistilledSet(**{**parts, **changes})


def test_round_trip_is_exact(tmp_path):
    made = make_set()
    read = DistilledSet.load(made.save(tmp_path / "set"), NAMES)
    for name in ("images", "labels", "weights", "targets"):
        assert torch.equal(getattr(read, name), getattr(made, name)), name
    assert (read.class_names, read.provenance, read.hash) == (made.class_names, made.provenance, made.hash)


def test_png_and_tensors_are_the_same_bytes(tmp_path):
    made = make_set()
    made.save(tmp_path / "set")
    rows = pd.read_parquet(tmp_path / "set" / "train" / "metadata.parquet")
    for index, row in rows.iterrows():
        pixels = np.array(Image.open(tmp_path / "set" / "train" / row["file_name"]))
        assert (torch.from_numpy(pixels).permute(2, 0, 1) == made.images[index]).all()
        assert (row["label"], row["weight"]) == (made.labels[index].item(), pytest.approx(made.weights[index].item()))


def test_hugging_face_reads_it_as_an_imagefolder(tmp_path):
    datasets = pytest.importorskip("datasets")
    made = make_set()
    made.save(tmp_path / "set")
    where = {"data_dir": str(tmp_path / "set"), "cache_dir": str(tmp_path / "cache")}
    read = datasets.load_dataset("imagefolder", split="train", **where)
    assert read["label"] == made.labels.tolist()
    assert read["weight"] == pytest.approx(made.weights.tolist())
    assert (np.array(read[3]["image"]) == made.images[3].permute(1, 2, 0).numpy()).all()


def test_sets_of_earlier_versions_are_read(tmp_path):
    made = make_set()
    folder = made.save(tmp_path / "set")
    (folder / "images.safetensors").unlink()
    tensors = {name: getattr(made, name) for name in ("images", "labels", "weights")} | {"logits": made.targets}
    write_tensors(folder / "tensors.safetensors", tensors)
    assert DistilledSet.load(folder).hash == made.hash


def test_hashes_follow_what_they_cover():
    made = make_set()
    reweighted = dataclasses.replace(made, weights=torch.ones(5))
    assert made.image_hash == reweighted.image_hash
    assert made.hash != reweighted.hash
    assert made.hash == dataclasses.replace(made, provenance={}).hash


def test_weights_default_to_one():
    assert make_set(weights=None).weights.tolist() == [1.0] * 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.zeros(5, 3, 8, 8)}, "uint8"),
        ({"images": torch.zeros(4, 3, 8, 8, dtype=torch.uint8)}, r"\[5, 3, H, W\]"),
        ({"labels": torch.tensor([0, 0, 0, 0, 0]), "weights": None}, "tench"),
        ({"labels": torch.tensor([0, 1, 0, 1, 1]), "weights": None}, "ordered by class"),
        ({"labels": torch.tensor([0, 0, 0, 1, 2]), "weights": None}, "outside"),
        ({"weights": torch.tensor([0.5, 1.5, 1.0, 1.2, 1.8])}, "tench.*1.5"),
        ({"weights": torch.tensor([2.5, -0.5, 1.0, 1.2, 0.8])}, "non-negative"),
        ({"weights": torch.tensor([float("nan")] * 5)}, "finite"),
        ({"targets": torch.zeros(5, 3)}, r"\[5, 2\]"),
    ],
)
def test_what_does_not_fit_is_an_error(changes, message):
    with pytest.raises(DataError, match=message):
        make_set(**changes)


def write_images(folder, classes, size=8):
    for index, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(2):
            value = 40 * index + number
            Image.fromarray(np.full((size, size, 3), value, np.uint8)).save(folder / name / f"{number}.png")


def test_folder_of_another_method_follows_the_order_of_the_dataset(tmp_path):
    write_images(tmp_path, ["dog", "cat"])
    read = DistilledSet.load(tmp_path, ["zebra", "dog", "cat"][1:])
    assert read.labels.tolist() == [0, 0, 1, 1] and read.class_names == ("dog", "cat")
    assert read.images[:, 0, 0, 0].tolist() == [0, 1, 40, 41]
    swapped = DistilledSet.load(tmp_path, ["cat", "dog"])
    assert swapped.images[:, 0, 0, 0].tolist() == [40, 41, 0, 1]


def test_numbered_folders_and_our_own_names_match(tmp_path):
    write_images(tmp_path / "a", ["0", "1"])
    write_images(tmp_path / "b", ["00000_cat", "00001_dog"])
    for folder in ("a", "b"):
        assert DistilledSet.load(tmp_path / folder, ["cat", "dog"]).labels.tolist() == [0, 0, 1, 1]
    with pytest.raises(DataError, match="matches no class"):  # right number, other class: the label trap
        DistilledSet.load(tmp_path / "b", ["dog", "cat"])


def test_errors_name_the_thing_and_the_mend(tmp_path):
    with pytest.raises(DataError, match="there is no folder"):
        DistilledSet.load(tmp_path / "missing")
    with pytest.raises(DataError, match="no class folders"):
        DistilledSet.load(tmp_path)
    write_images(tmp_path / "a", ["cat", "dgo"])
    with pytest.raises(DataError, match="dgo matches no class.*did you mean 'dog'"):
        DistilledSet.load(tmp_path / "a", ["cat", "dog"])
    (tmp_path / "a" / "cat" / "0.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match="0.png.*cannot be read"):
        DistilledSet.load(tmp_path / "a")
    write_images(tmp_path / "b", ["cat", "dog"])
    (tmp_path / "b" / "empty").mkdir()
    with pytest.raises(DataError, match="empty has no image"):
        DistilledSet.load(tmp_path / "b")


def test_missing_class_is_named(tmp_path):
    write_images(tmp_path, ["cat"])
    with pytest.raises(DataError, match="'dog'"):
        DistilledSet.load(tmp_path, ["cat", "dog"])


def test_damaged_set_is_an_error(tmp_path):
    folder = make_set().save(tmp_path / "set")
    about = json.loads((folder / "provenance.json").read_text())
    (folder / "provenance.json").write_text(json.dumps(about | {"hash": "0" * 20}))
    with pytest.raises(DataError, match="do not match the hash"):
        DistilledSet.load(folder)
    for name in ("images.safetensors", "tensors.safetensors"):
        (folder / name).write_bytes(b"short")
        with pytest.raises(DataError, match="damaged"):
            DistilledSet.load(folder)
    with pytest.raises(DataError, match="already holds"):
        make_set().save(folder)


def test_verified_files_are_not_read_again_for_the_hash(tmp_path, monkeypatch):
    made = make_set()
    folder = made.save(tmp_path / "set")
    monkeypatch.setattr("ddoq_plugin.distilled_set.hash_tensors", lambda *tensors: pytest.fail("read again"))
    read = DistilledSet.load(folder, verified=True)
    assert (read.hash, read.image_hash) == (made.hash, made.image_hash)


def test_many_images_of_another_method_lie_in_a_file(tmp_path, monkeypatch):
    write_images(tmp_path, ["cat", "dog"])
    expected = DistilledSet.load(tmp_path)
    monkeypatch.setattr("ddoq_plugin.store.tensor_files.IN_MEMORY", 0)
    assert DistilledSet.load(tmp_path).hash == expected.hash


def test_set_of_another_dataset_is_refused(tmp_path):
    folder = make_set().save(tmp_path / "set")
    with pytest.raises(DataError, match="not those of the dataset"):
        DistilledSet.load(folder, NAMES[::-1])


def test_to_uint8_rounds_and_clamps():
    values = torch.tensor([-1.0, 0.0, 0.4 / 255, 0.6 / 255, 1.0, 2.0])
    assert to_uint8(values).tolist() == [0, 0, 0, 1, 255, 255]
