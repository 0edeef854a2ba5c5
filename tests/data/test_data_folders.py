"""Folders of images: own, ImageNet and subsets, Tiny-ImageNet; damaged files."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from ddoq_plugin.data import load_data
from ddoq_plugin.data.file_index import FileIndex, ImageFile
from ddoq_plugin.data.imagenet_classes import SUBSETS, imagenet_names
from ddoq_plugin.errors import DataError


def write_images(folder, count, colour=0, size=(8, 8), kind="png"):
    """Write ``count`` images of one colour value each: colour, colour + 1, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(np.full((size[1], size[0], 3), colour + i, dtype=np.uint8)).save(folder / f"{i:03d}.{kind}")
    return folder


@pytest.fixture
def own(tmp_path):
    for place, name in enumerate(("ant", "bee", "cow")):
        write_images(tmp_path / "mine" / name, 10, colour=50 * place)
    return tmp_path / "mine"


def test_an_own_folder_is_split_once_and_for_all(own):
    data = load_data(f"folder:{own}")
    assert (data.name, data.class_names, data.image_size) == ("mine", ("ant", "bee", "cow"), 8)
    assert [data.class_counts(part).tolist() for part in ("train", "val", "test")] == [[7] * 3, [1] * 3, [2] * 3]
    values = [data.split(part).images()[:, 0, 0, 0].tolist() for part in ("train", "val", "test")]
    assert sorted(sum(values, [])) == sorted([50 * c + i for c in range(3) for i in range(10)])
    assert "3 classes by folder ('ant', 'bee', 'cow'), training images from mine/" in data.notes[0]
    assert "20% of each class" in data.notes[1]
    again = load_data("folder", path=own)
    assert (again.fingerprint, [file.path for file in again.test.files]) == (
        data.fingerprint,
        [file.path for file in data.test.files],
    )


def test_labels_follow_the_files(own):
    split = load_data(f"folder:{own}").train
    assert (split.images()[:, 0, 0, 0] // 50).tolist() == split.labels.tolist()
    assert torch.equal(split.images([4, 1]), split.images()[[4, 1]])
    assert torch.equal(split.subset([4, 1]).images([1]), split.images([1]))


def test_train_and_test_folders_are_kept_and_val_is_used(tmp_path):
    for part, count in (("train", 6), ("val", 2), ("test", 3)):
        for name in ("ant", "bee"):
            write_images(tmp_path / part / name, count)
    data = load_data(f"folder:{tmp_path}")
    assert [data.class_counts(part).tolist() for part in ("train", "val", "test")] == [[6] * 2, [2] * 2, [3] * 2]
    (note,) = data.notes
    assert "training images from train/, validation images from val/, test images from test/" in note


def test_a_val_folder_alone_is_the_test_split(tmp_path):
    for part, count in (("train", 6), ("val", 2)):
        for name in ("ant", "bee"):
            write_images(tmp_path / part / name, count)
    data = load_data(f"folder:{tmp_path}", val_fraction=0.34)
    assert [data.class_counts(part).tolist() for part in ("train", "val", "test")] == [[4] * 2, [2] * 2, [2] * 2]
    assert "val is the test split" in data.notes[1]


def test_images_of_several_sizes_are_brought_to_one(tmp_path):
    write_images(tmp_path / "ant", 4, size=(30, 20), kind="jpg")
    write_images(tmp_path / "bee", 4, size=(10, 20))
    data = load_data(f"folder:{tmp_path}")
    assert data.train.images().shape[1:] == (3, 64, 64)
    assert "no common square size" in " ".join(data.notes)
    assert load_data(f"folder:{tmp_path}", image_size=12).train.images().shape[1:] == (3, 12, 12)


def test_a_folder_split_reads_only_what_is_asked_for(own):
    data = load_data(f"folder:{own}")
    (own / data.train.files[0].path).unlink()
    assert len(data.train.images([1, 2])) == 2
    with pytest.raises(DataError, match="has gone since"):
        data.train.images([0])


def test_a_folder_split_travels_to_another_process(own):
    split = load_data(f"folder:{own}").train
    assert torch.equal(pickle.loads(pickle.dumps(split)).images(), split.images())


def test_more_images_than_memory_holds_are_refused(own, monkeypatch):
    from ddoq_plugin.data import files

    split = load_data(f"folder:{own}").train
    monkeypatch.setattr(files, "MEMORY_SHARE", 1e-12)
    with pytest.raises(DataError, match="21 images of 8x8 pixels need"):
        split.images()


def test_the_fingerprint_follows_content_and_not_names(own):
    before = load_data(f"folder:{own}").fingerprint
    for file in sorted((own / "ant").iterdir()):
        file.rename(file.with_name(f"x{file.name}"))
    assert load_data(f"folder:{own}").fingerprint == before
    Image.new("RGB", (8, 8), (1, 2, 3)).save(own / "ant" / "x000.png", compress_level=0)
    painted = load_data(f"folder:{own}").fingerprint
    write_images(own / "bee", 11, colour=50)
    assert len({before, painted, load_data(f"folder:{own}").fingerprint}) == 3


@pytest.mark.parametrize("small", [0, 1 << 30])
def test_exchanged_files_are_noticed_with_and_without_the_cache(tmp_path, monkeypatch, small):
    from ddoq_plugin.data import content_hashes

    monkeypatch.setattr(content_hashes, "SMALL", small)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for part in ("train", "test"):
        for place, name in enumerate(("cat", "dog")):
            write_images(tmp_path / "bm" / part / name, 6, colour=100 * place, kind="bmp")
    root = tmp_path / "bm"
    before = load_data(f"folder:{root}")
    assert load_data(f"folder:{root}").fingerprint == before.fingerprint
    assert (load_data(f"folder:{root}").train.unread_bytes() == 0) == (small == 0)
    for part in ("train", "test"):  # the very files change places: sizes and times stay
        (root / part / "cat").rename(root / part / "other")
        (root / part / "dog").rename(root / part / "cat")
        (root / part / "other").rename(root / part / "dog")
    swapped = load_data(f"folder:{root}")
    assert swapped.fingerprint != before.fingerprint and swapped.test.digest() != before.test.digest()


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_check_finds_and_names_a_damaged_image(tmp_path, kind):
    rng = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for i in range(6):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.{kind}")
    data = load_data(f"folder:{tmp_path}")
    data.check()
    file = tmp_path / data.train.files[3].path
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(DataError, match=f"{file.name} cannot be read"):
        data.check(progress=False)
    file.write_bytes(b"this is no image")
    with pytest.raises(DataError, match=f"{file.name} cannot be read"):
        data.train.images()


def test_a_class_is_checked_alone(tmp_path):
    for name in ("ant", "bee"):
        write_images(tmp_path / name, 20, kind="JPEG")
    data = load_data(f"folder:{tmp_path}")
    for part in ("test", "train"):  # every split is read, and train is named before test
        split = data.split(part)
        file = tmp_path / split.files[int(split.class_indices(1)[0])].path
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        data.check_class(0)
        with pytest.raises(DataError, match=f"{file.name} cannot be read"):
            data.check_class(1)


def test_a_split_travels_as_its_index(tmp_path, monkeypatch):
    for name in ("ant", "bée"):
        write_images(tmp_path / name, 6)
    data = load_data(f"folder:{tmp_path}")
    monkeypatch.setattr("os.scandir", lambda *place: pytest.fail("listed again"))
    travelled = pickle.loads(pickle.dumps(data))
    assert travelled.fingerprint == data.fingerprint and travelled.train.digest() == data.train.digest()
    assert torch.equal(travelled.train.images(), data.train.images())


def test_an_index_of_files_is_a_sequence():
    files = [ImageFile("a/é.png", 3), ImageFile("a/b.png", 2**40), ImageFile("c/d.png", 0)]
    index = FileIndex.of(iter(files))
    assert list(index) == files and len(index) == 3 and index[-1] == files[-1]
    assert list(index[1:]) == files[1:] and list(index.take(torch.tensor([2, 0]))) == [files[2], files[0]]
    assert list(index.take(torch.tensor([2, 0])).take(torch.tensor([1]))) == [files[0]]
    assert list(FileIndex.of([])) == []


def test_what_is_wrong_with_a_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere of the dataset folder does not exist"):
        load_data(f"folder:{tmp_path / 'nowhere'}")
    with pytest.raises(DataError, match="has no class folders"):
        load_data(f"folder:{tmp_path}")
    write_images(tmp_path / "ant", 3)
    with pytest.raises(DataError, match="1 class; classification needs at least two"):
        load_data(f"folder:{tmp_path}")
    (tmp_path / "bee").mkdir()
    (tmp_path / "bee" / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match="bee has no image"):
        load_data(f"folder:{tmp_path}")


def test_a_test_folder_must_have_the_same_classes(tmp_path):
    for place in ("train/ant", "train/bee", "test/ant"):
        write_images(tmp_path / place, 3)
    with pytest.raises(DataError, match="test/bee, one folder per class"):
        load_data(f"folder:{tmp_path}")


def test_a_test_folder_without_a_train_folder_is_no_class(tmp_path):
    for place in ("test/ant", "val/ant"):
        write_images(tmp_path / place, 3)
    with pytest.raises(DataError, match="test and val but no train folder"):
        load_data(f"folder:{tmp_path}")


def imagenet_tree(root, wnids):
    for place, wnid in enumerate(wnids):
        write_images(root / "train" / wnid, 3, colour=place, size=(12, 9), kind="JPEG")
        write_images(root / "val" / wnid, 1, colour=place, size=(12, 9), kind="JPEG")
    return root


def test_a_subset_is_taken_from_a_larger_tree(tmp_path):
    imagenet_tree(tmp_path, [*SUBSETS["imagenette"], *SUBSETS["imagefruit"]])
    data = load_data("imagenette", root=tmp_path, image_size=8)
    assert data.wnids == SUBSETS["imagenette"]
    assert (data.class_names[0], data.class_names[-1]) == ("tench", "parachute")
    assert data.class_counts("test").tolist() == [1] * 10
    assert data.train.files[0].path.startswith("train/n01440764/")
    own_tree = load_data("imagenette", root=imagenet_tree(tmp_path / "own", SUBSETS["imagenette"]), image_size=8)
    assert own_tree.fingerprint == data.fingerprint


def test_chosen_classes_of_imagenet_need_only_their_own_folders(tmp_path):
    imagenet_tree(tmp_path, ["n01440764", "n02129165"])
    data = load_data("imagenet", root=tmp_path, image_size=8, classes=["lion", "n01440764"])
    assert (data.class_names, data.wnids) == (("lion", "tench"), ("n02129165", "n01440764"))
    with pytest.raises(DataError, match="train/n01443537, one folder per class"):
        load_data("imagenet", root=tmp_path)
    with pytest.raises(DataError, match="no class 'lionn'; did you mean 'lion'"):
        load_data("imagenet", root=tmp_path, classes=["lionn", "tench"])


def test_own_folders_named_by_wordnet_ids_get_readable_names(tmp_path):
    for wnid in ("n02129165", "n01440764"):
        write_images(tmp_path / wnid, 4)
    data = load_data(f"folder:{tmp_path}")
    assert (data.class_names, data.wnids) == (("tench", "lion"), ("n01440764", "n02129165"))


def test_imagenet_lists_are_whole():
    names = imagenet_names()
    assert len(names) == len(set(names.values())) == 1000
    assert list(names) == sorted(names)
    assert {name: len(ids) for name, ids in SUBSETS.items()} == {
        **dict.fromkeys(("imagenette", "imagewoof", "imagemeow", "imagesquawk", "imagefruit", "imageyellow"), 10),
        "imagenet100": 100,
    }
    for ids in SUBSETS.values():
        assert list(ids) == sorted(set(ids)) and set(ids) <= set(names)
    assert "golden retriever" in {names[wnid] for wnid in SUBSETS["imagewoof"]}
    assert {names[wnid] for wnid in SUBSETS["imageyellow"]} >= {"banana", "school bus", "goldfinch"}


@pytest.fixture
def tiny(tmp_path):
    root = tmp_path / "tiny-imagenet-200"
    for place, wnid in enumerate(("n01443537", "n02012849", "n03126707")):
        write_images(root / "train" / wnid / "images", 4, colour=40 * place, kind="JPEG")
        write_images(root / "val" / "images", 0)
        write_images(root / "val" / "loose", 1, colour=40 * place, kind="JPEG")
        (root / "val" / "loose" / "000.JPEG").rename(root / "val" / "images" / f"val_{2 - place}.JPEG")
    (root / "val" / "loose").rmdir()
    lines = [
        "val_2.JPEG\tn01443537\t0\t0\t7\t7",
        "val_1.JPEG\tn02012849\t0\t0\t7\t7",
        "val_0.JPEG\tn03126707\t0\t0\t7\t7",
    ]
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    (root / "words.txt").write_text("n01443537\tgoldfish, Carassius\nn02012849\tcrane\nn03126707\tcrane\nn1\tother\n")
    return root


def test_tiny_imagenet_in_its_own_layout(tiny):
    data = load_data("tiny_imagenet", root=tiny.parent, image_size=8)
    assert data.class_names == ("goldfish", "n02012849", "n03126707")  # "crane" names two classes
    assert (data.test.images()[:, 0, 0, 0] // 40).tolist() == data.test.labels.tolist() == [0, 1, 2]
    assert (data.train.images()[:, 0, 0, 0] // 40).tolist() == data.train.labels.tolist()


def test_tiny_imagenet_reorganised(tiny):
    original = load_data("tiny_imagenet", root=tiny, image_size=8)
    images = original.test.images()
    for line in (tiny / "val" / "val_annotations.txt").read_text().splitlines():
        name, wnid = line.split("\t")[:2]
        (tiny / "val" / wnid).mkdir()
        (tiny / "val" / "images" / name).rename(tiny / "val" / wnid / name)
    (tiny / "val" / "images").rmdir()
    data = load_data("tiny_imagenet", root=tiny, image_size=8)
    assert torch.equal(data.test.images(), images)
    assert data.test.labels.tolist() == original.test.labels.tolist()


def test_tiny_imagenet_names_what_is_missing(tiny):
    (tiny / "val" / "images" / "val_1.JPEG").unlink()
    with pytest.raises(DataError, match="names the image 'val_1.JPEG'"):
        load_data("tiny_imagenet", root=tiny)
    (tiny / "val" / "val_annotations.txt").unlink()
    with pytest.raises(DataError, match="expects .*val_annotations.txt"):
        load_data("tiny_imagenet", root=tiny)
    with pytest.raises(DataError, match="expects the folder .*train"):
        load_data("tiny_imagenet", root=tiny / "val")
