"""Distilled sets that are folders of images: classes, weights, upright pixels, edits; what does not fit is said."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ddoq_plugin.data.transforms import decode_image
from ddoq_plugin.distilled_set import DistilledSet
from ddoq_plugin.errors import DataError
from ddoq_plugin.set_folder import METADATA

CLASSES = ("cat", "dog", "ship")
FILES = [f"{name}/{i:03d}.png" for name in CLASSES for i in range(2)]
WEIGHTS = [0.5, 1.5, 1.0, 1.0, 1.75, 0.25]


def pictures(root, classes=CLASSES, n=2, size=8, start=0):
    rng = np.random.default_rng(start)
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i:03d}.png")
    return root


def table(place, names=FILES, weights=WEIGHTS, kind="parquet", column="weight", **more):
    frame = pd.DataFrame({"file_name": names, column: weights, **more})
    if kind == "parquet":
        frame.to_parquet(place / "metadata.parquet")
    elif kind == "csv":
        frame.to_csv(place / "metadata.csv", index=False)
    else:
        frame.to_json(place / "metadata.jsonl", orient="records", lines=True)


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("place", ["", "train"])
@pytest.mark.parametrize("spelt", ["{}", "train/{}", "./{}", "back", "column"])
def test_weights_are_used_wherever_the_name_is_unambiguous(tmp_path, kind, place, spelt):
    pictures(tmp_path / "train")
    names = [name.replace("/", "\\") if spelt == "back" else spelt.format(name) for name in FILES]
    names = FILES if spelt == "column" else names
    table(tmp_path / place, names, kind=kind, column="weights" if spelt == "column" else "weight")
    made = DistilledSet.load(tmp_path, CLASSES)
    assert made.weights.tolist() == WEIGHTS
    assert any("weights from metadata" in note for note in made.provenance["notes"])


def test_a_file_name_that_only_one_image_has_is_enough(tmp_path):
    for place, name in enumerate(CLASSES):
        pictures(tmp_path, [name], start=place)
        for i in range(2):
            (tmp_path / name / f"{i:03d}.png").rename(tmp_path / name / f"{name}{i}.png")
    table(tmp_path, [f"{name}{i}.png" for name in CLASSES for i in range(2)])
    assert DistilledSet.load(tmp_path, CLASSES).weights.tolist() == WEIGHTS


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: table(p, FILES[:5], WEIGHTS[:5]), "no row for the image .*ship/001.png .1 such"),
        (lambda p: table(p, [*FILES[:5], FILES[0]]), "two rows for the image cat/000.png"),
        (lambda p: table(p, [*FILES[:5], "ship/9.png"]), "row for 'ship/9.png', which is no image"),
        (lambda p: table(p, ["000.png", *FILES[1:]]), "row for '000.png', which means several images"),
        (lambda p: table(p, ["../cat/000.png", *FILES[1:]]), "row for '../cat/000.png', which is no image"),
        (lambda p: table(p, weights=["a", *WEIGHTS[1:]], kind="csv"), "the weight 'a', which is no number"),
        (lambda p: table(p, weights=[None, *WEIGHTS[1:]]), "'cat/000.png' the weight .*, which is no number"),
        (lambda p: pd.DataFrame({"weight": WEIGHTS}).to_csv(p / "metadata.csv"), "no column file_name"),
        (lambda p: table(p, label=[0, 0, 1, 1, 2, 1]), "ship/001.png the label 1, and its folder is class 2, 'ship'"),
        (lambda p: (table(p), table(p, kind="csv")), "2 tables .'metadata.csv', 'metadata.parquet'.; keep one"),
        (lambda p: (p / "metadata.parquet").write_bytes(b"PAR1"), "metadata.parquet cannot be read"),
        (lambda p: (p / "metadata.jsonl").write_text("{"), "metadata.jsonl cannot be read"),
        (lambda p: table(p, weights=[2, 2, 1, 1, 1, 1]), "class 'cat' has 2"),
    ],
)  # fmt: skip
def test_a_table_that_does_not_fit_is_one_sentence(tmp_path, make, message):
    make(pictures(tmp_path))
    with pytest.raises(DataError, match=message) as caught:
        DistilledSet.load(tmp_path, CLASSES)
    assert "\n" not in str(caught.value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.sampled_from([*FILES, "cat/none.png", "000.png", "train/dog/001.png"]), max_size=9),
    kind=st.sampled_from(["parquet", "csv", "jsonl"]),
)
def test_any_table_is_used_for_every_image_or_refused(tmp_path_factory, rows, kind):
    root = tmp_path_factory.mktemp("set")
    pictures(root / "train")
    table(root / "train", rows, [1.0 for _ in rows], kind=kind)
    meant = sorted(name.removeprefix("train/") for name in rows)
    try:
        made = DistilledSet.load(root, CLASSES)
    except DataError as problem:
        assert meant != FILES and "\n" not in str(problem)
    else:
        assert meant == FILES and len(made) == 6


def test_what_is_not_used_of_a_set_is_counted(tmp_path):
    pictures(tmp_path / "train")
    pictures(tmp_path / "test")
    (tmp_path / "train" / "cat" / "x.gif").write_bytes(b"x")
    notes = "; ".join(DistilledSet.load(tmp_path, CLASSES).provenance["notes"])
    assert "6 images of test/ not used" in notes and "1 file not used: no images of a known type (1 .gif)" in notes
    assert "3 class folders read by class names: cat is cat, dog is dog, ship is ship" in notes


def test_folders_may_be_named_by_the_wordnet_ids_of_the_dataset(tmp_path):
    made = DistilledSet.load(pictures(tmp_path, ["n02", "n01"]), ["Shih-Tzu", "beagle"], wnids=["n01", "n02"])
    assert made.class_names == ("Shih-Tzu", "beagle")
    expected = decode_image(tmp_path / "n01" / "000.png", 8, "crop")
    assert np.array_equal(made.images[0].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_sets_and_data_see_the_same_upright_pixels(tmp_path, kind):
    pictures(tmp_path, n=1)
    for name in CLASSES:
        file = tmp_path / name / "000.png"
        with Image.open(file) as image:
            exif = image.getexif()
            exif[0x112] = 6
            image.save(file.with_suffix(f".{kind}"), exif=exif)
        if kind != "png":
            file.unlink()
    made = DistilledSet.load(tmp_path, CLASSES)
    expected = decode_image(tmp_path / f"cat/000.{kind}", 8, "crop")
    assert np.array_equal(made.images[0].permute(1, 2, 0).numpy(), expected)


@pytest.fixture
def saved(tmp_path):
    images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels, weights = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor(WEIGHTS)
    made = DistilledSet(images, labels, CLASSES, weights, provenance={"method": "ddoq", "label": "ddoq sqrt"})
    return made, made.save(tmp_path / "saved")


def test_an_untouched_set_is_read_as_it_was_made(saved):
    made, folder = saved
    again = DistilledSet.load(folder, CLASSES)
    assert again.hash == made.hash and "notes" not in again.provenance


def paint(folder):
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(folder / "train/00000_cat/00001.png")


def reweigh(folder):
    frame = pd.read_parquet(folder / "train" / METADATA)
    frame.loc[frame["file_name"].str.startswith("00000"), "weight"] = 1.0
    frame.to_parquet(folder / "train" / METADATA)


def without_a_table(folder):
    (folder / "train" / METADATA).unlink()
    (folder / "train/00002_ship/00001.png").unlink()


@pytest.mark.parametrize("edit", [paint, reweigh, without_a_table])
def test_an_edit_of_a_saved_set_counts(saved, edit):
    made, folder = saved
    edit(folder)
    again = DistilledSet.load(folder, CLASSES)
    assert again.hash != made.hash and again.provenance["label"] == "ddoq sqrt"
    assert again.provenance["notes"][0] == "edited since it was saved: its pictures and table count"
    if edit is paint:
        assert again.images[1].max() == 0 and again.weights.tolist() == WEIGHTS
    elif edit is reweigh:
        assert again.weights.tolist() == [1.0, 1.0, *WEIGHTS[2:]] and torch.equal(again.images, made.images)
    else:
        assert len(again) == 5 and again.weights.tolist() == [1.0] * 5


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda f: shutil.rmtree(f / "train/00001_dog"), "00001_dog/00000.png', which is no image"),
        (lambda f: shutil.copytree(f / "train/00001_dog", f / "train/dog"), "two folders of the class 'dog'"),
        (lambda f: shutil.copy(f / "train/00001_dog/00000.png", f / "train/00001_dog/9.png"), "no row for the image"),
        (lambda f: (f / "train" / "bird").mkdir(), None),
    ],
)
def test_an_edit_that_leaves_no_set_is_one_sentence(saved, edit, message):
    made, folder = saved
    edit(folder)
    if message is None:  # an empty folder changes no file
        assert DistilledSet.load(folder, CLASSES).hash == made.hash
    else:
        with pytest.raises(DataError, match=message):
            DistilledSet.load(folder, CLASSES)


def test_an_edit_beside_tensors_that_pictures_cannot_hold_is_refused(tmp_path):
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    made = DistilledSet(images, torch.tensor([0, 1]), ("cat", "dog"), targets=torch.zeros(2, 2))
    folder = made.save(tmp_path / "saved")
    Image.new("RGB", (8, 8), (9, 9, 9)).save(folder / "train/00000_cat/00000.png")
    with pytest.raises(DataError, match="targets of the set are not in them; undo the edit"):
        DistilledSet.load(folder, ("cat", "dog"))


def test_a_set_of_an_earlier_version_has_no_hash_of_its_files_and_loads_unchanged(saved):
    made, folder = saved
    about = json.loads((folder / "provenance.json").read_text())
    del about["files"]
    (folder / "provenance.json").write_text(json.dumps(about))
    again = DistilledSet.load(folder, CLASSES)
    assert again.hash == made.hash and "notes" not in again.provenance
    paint(folder)
    assert DistilledSet.load(folder, CLASSES).hash != made.hash


def test_the_table_is_one_that_older_readers_take(saved):
    import pyarrow.parquet as pq

    kinds = {field.name: str(field.type) for field in pq.read_schema(saved[1] / "train" / METADATA)}
    assert kinds == {"file_name": "string", "label": "int64", "weight": "double"}
