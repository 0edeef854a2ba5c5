"""Every file below a folder of images is used, is counted in a note, or is an error."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ddoq_plugin.data import load_data
from ddoq_plugin.data.class_names import match_folders, resolve_classes
from ddoq_plugin.data.image_tree import EXTENSIONS, class_files, read_tree
from ddoq_plugin.errors import DataError

CLASSES = ("cat", "dog", "ship")


def tree(root, classes=CLASSES, n=4, size=8, kind="png", start=0):
    rng = np.random.default_rng(start)
    for name in classes:
        os.makedirs(f"{root}/{name}", exist_ok=True)
        for i in range(n):
            pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(f"{root}/{name}/{start + i:03d}.{kind}")
    return root


def load(root, **options):
    return load_data("folder", path=root, image_size=8, val_fraction=0.4, **options)


@pytest.mark.parametrize(
    "names", [("train", "valid", "test"), ("Train", "VAL", "Testing"), ("training", "dev", "evaluation")]
)
def test_splits_have_the_names_that_people_use(tmp_path, names):
    for place, name in enumerate(names):
        tree(tmp_path / name, n=place + 2, start=10 * place)
    data = load(tmp_path)
    assert [len(data.split(part)) for part in ("train", "val", "test")] == [6, 9, 12]
    assert f"validation images from {names[1]}/" in data.notes[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: (tree(p / "train", CLASSES[:2]), tree(p / "test")), "test has the class 'ship'"),
        (lambda p: (tree(p / "train"), tree(p / "test"), tree(p / "valid", ["sheep"])), "valid has the class 'sheep'"),
        (lambda p: (tree(p / "train"), tree(p / "test", CLASSES[:2])), "test/ship.*does not exist"),
        (lambda p: (tree(p / "train"), tree(p / "Train")), "two folders of one split, Train and train"),
        (lambda p: (tree(p / "train"), tree(p / "val"), tree(p / "valid")), "two folders of one split, val and valid"),
        (lambda p: (tree(p / "train"), tree(p / "tset")), "tset holds images and is no split beside train.*'test'"),
        (lambda p: (tree(p / "train"), tree(p, ["test"])), "test holds images but no class folders"),
        (lambda p: (tree(p / "train"), (p / "val").mkdir()), "val holds no images"),
        (lambda p: (tree(p), tree(p / "test")), "has test but no train folder"),
        (lambda p: (tree(p), tree(p, ["train"]), tree(p / "train")), "train holds images and folders of images"),
        (lambda p: (tree(p), (p / "bird").symlink_to(p / "nowhere")), "link .*bird leads nowhere"),
        (lambda p: (tree(p), (p / "cat" / "9.png").symlink_to("gone.png")), "link .*9.png leads nowhere"),
        (lambda p: (tree(p / "train"), (p / "test").symlink_to(p / "gone")), "link .*test leads nowhere"),
        (lambda p: (tree(p), (p / "cat" / "up").symlink_to(p)), "link .*up leads back"),
        (lambda p: (tree(p), (p / os.fsdecode(b"caf\xe9")).mkdir(), tree(p, [os.fsdecode(b"caf\xe9")])), "not UTF-8"),
    ],
)  # fmt: skip
def test_what_would_vanish_is_one_sentence(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path)
    str(caught.value).encode()


def test_one_class_in_two_forms_of_unicode_is_one_sentence(tmp_path):
    names = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    tree(tmp_path, [*names, "dog"])
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip("this file system takes the two for one")
    with pytest.raises(DataError, match="spelt differently in bytes"):
        load(tmp_path)


def test_splits_match_whatever_form_of_unicode_their_names_have(tmp_path):
    tree(tmp_path / "train", [unicodedata.normalize("NFC", "café"), "dog"])
    tree(tmp_path / "test", [unicodedata.normalize("NFD", "café"), "dog"])
    assert load(tmp_path).class_names == ("café", "dog")


def test_what_is_not_used_is_counted(tmp_path):
    tree(tmp_path)
    tree(tmp_path, [".hidden", "cat/.ipynb_checkpoints", "__MACOSX"], n=2)
    for name in ("cat/a.gif", "cat/b.gif", "dog/notes.txt", "README"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "ship" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "metadata.csv").write_text("file_name,weight\n")
    tree(tmp_path, ["."], n=3, start=50)
    notes = "; ".join(load(tmp_path).notes)
    assert "4 files not used: no images of a known type (2 .gif, 1 .txt, 1 without suffix), such as README" in notes
    assert "7 files not used: files of the system" in notes
    assert "3 files not used: images beside the class folders (3 .png), such as 050.png" in notes
    assert "metadata.csv is not read" in notes


def test_images_in_folders_below_a_class_are_its_images(tmp_path):
    tree(tmp_path, n=3)
    tree(tmp_path / "cat", ["day", "night/late"], n=2)
    data = load(tmp_path)
    assert sum(int(data.class_counts(part)[0]) for part in ("train", "val", "test")) == 7


@pytest.mark.parametrize("names", [("cat", "dog", "train"), ("test", "train", "val"), ("Train", "cat", "test")])
def test_a_class_may_be_called_like_a_split(tmp_path, names):
    tree(tmp_path, names)
    assert load(tmp_path).class_names == tuple(sorted(names))


def test_a_class_of_a_split_may_be_called_like_a_split(tmp_path):
    tree(tmp_path / "train", ["train", "other"])
    assert load(tmp_path).class_names == ("other", "train")


def test_file_names_need_not_be_utf_8(tmp_path):
    tree(tmp_path)
    os.rename(tmp_path / "cat" / "000.png", os.fsencode(tmp_path / "cat") + b"/caf\xe9.png")
    data = load(tmp_path)
    data.check(progress=False)
    assert len(data.fingerprint) == 64


def test_a_dataset_has_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tree(tmp_path / "mine"))
    assert load_data("folder:.", image_size=8).name == "mine"


def test_a_folder_that_cannot_be_read_is_one_sentence(tmp_path, monkeypatch):
    tree(tmp_path)
    real = os.scandir
    monkeypatch.setattr(
        "os.scandir", lambda place: real(place) if Path(place).name != "dog" else real("/nowhere/at/all")
    )
    with pytest.raises(DataError, match="dog cannot be read"):
        load(tmp_path)


NUMBERS = [str(number) for number in range(1, 13)]


@pytest.mark.parametrize(
    ("wanted", "names", "found"),
    [
        ([1, 2], NUMBERS, ["1", "2"]),
        (["1", 12], NUMBERS, ["1", "12"]),
        ([1, 2], CLASSES, ["dog", "ship"]),
        (["ship", "cat"], CLASSES, ["ship", "cat"]),
        (["0", 1], NUMBERS, "no class '0'.*a number is a name"),
        ([7], ["007", "dog"], "no class '7'"),
        ([0, "dog"], CLASSES, "names and positions"),
        ([3], CLASSES, "no class at position 3"),
        ([True, False], ["yes", "no"], "classes has True.*in quotes"),
        ([None], CLASSES, "classes has None.*in quotes"),
        ([1.0], CLASSES, "classes has 1.0.*in quotes"),
        (["cat", "cat"], CLASSES, "twice"),
    ],
)
def test_a_list_of_classes_is_read_in_one_way(wanted, names, found):
    if isinstance(found, str):
        with pytest.raises(DataError, match=found):
            resolve_classes(wanted, names)
    else:
        assert [names[c] for c in resolve_classes(wanted, names)] == found


@pytest.mark.parametrize(
    ("folders", "names", "found"),
    [
        (["dog", "cat"], CLASSES, [1, 0]),
        (["0", "002"], CLASSES, [0, 2]),
        (["00000_cat", "00002_ship"], CLASSES, [0, 2]),
        (["n02", "n01"], CLASSES[:2], [1, 0]),
        (["1", "12"], NUMBERS, [0, 11]),
        (["00000_1", "00011_12"], NUMBERS, [0, 11]),
        (["cat", "00000_cat"], CLASSES, "two folders of the class 'cat', cat and 00000_cat"),
        (["3", "03"], "abcd", "two folders of the class 'd', 3 and 03"),
        (["cat", "0"], CLASSES, "two folders of the class 'cat'"),
        (["cat", "1"], CLASSES, "several ways .cat by class names, 1 by positions"),
        (["0", "1", "2"], ["1", "2", "3"], "0 matches no class.*could be the position of '1'"),
        (["000", "001"], ["1", "2"], "000 matches no class"),
        (["bird"], CLASSES, "bird matches no class"),
    ],
)  # fmt: skip
def test_class_folders_of_a_set_are_read_in_one_way(folders, names, found):
    wnids = ["n01", "n02"] if folders[0].startswith("n0") else None
    if isinstance(found, str):
        with pytest.raises(DataError, match=found):
            match_folders(folders, list(names), wnids, Path("x"))
    else:
        assert match_folders(folders, list(names), wnids, Path("x"))[0] == found


NAMES = st.sampled_from(
    ["cat", "dog", "Dog", "café", "cafe\u0301", "1", "2", "01", "train", "Test", "valid", "n01440764", ".git", "a b"]
)
FILES = st.sampled_from(["a.png", "B.JPG", "c.gif", "d.txt", ".e.png", "Thumbs.db", "f", "g\udce9.png", "metadata.csv"])
KINDS = st.sampled_from(["file", "file", "file", "broken link"])
PATHS = st.lists(st.tuples(st.lists(NAMES, max_size=3), FILES, KINDS), min_size=1, max_size=14)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(paths=PATHS)
def test_every_file_of_any_tree_is_used_counted_or_refused(tmp_path_factory, paths):
    root = tmp_path_factory.mktemp("tree")
    written = 0
    for folders, name, kind in paths:
        place = root.joinpath(*folders)
        if any(one.is_file() or one.is_symlink() for one in (place, *place.parents)):
            continue
        place.mkdir(parents=True, exist_ok=True)
        file = place / name
        if os.path.lexists(file):
            continue
        if kind == "file":
            file.write_bytes(b"x")
        else:
            file.symlink_to("nowhere")
        written += 1
    try:
        found = read_tree(root)
        used = [
            file.path
            for _, folders in found.splits.values()
            for folder in folders.values()
            for file in class_files(folder, root, found.passed)
        ]
    except DataError as problem:
        assert "\n" not in str(problem)
        str(problem).encode()
        return
    counted = sum(int(note.split(" file")[0]) for note in found.passed.notes())
    assert len(used) == len(set(used)) and all(Path(path).suffix.lower() in EXTENSIONS for path in used)
    assert len(used) + counted + len(found.passed.tables) == written
