"""Sets with the same images in one store: the disk holds them once, and each folder is whole for itself."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from torchvision.datasets import ImageFolder

from ddoq_plugin import DistilledSet
from ddoq_plugin.store.artifacts import Store

NAMES = ("cat", "dog")


def noise(count=6, size=32):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def weighted(*weights, images=None, names=NAMES):
    images = noise() if images is None else images
    return DistilledSet(images, torch.tensor([0, 0, 0, 1, 1, 1]), names, weights=torch.tensor(weights * 2))


EVEN, UNEVEN = weighted(1.0, 1.0, 1.0), weighted(0.5, 1.0, 1.5)


def stored(root, made):
    store, key = Store(root), {"hash": made.hash, "names": made.class_names}
    return store.get("sets", key, lambda folder: made.save(folder, store) and None)


def files_of(folder):
    return {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}


def disk_usage(*folders):
    """Bytes of all files, each inode counted once."""
    found = (file.stat() for folder in folders for file in folder.rglob("*") if file.is_file())
    return sum({one.st_ino: one.st_size for one in found}.values())


def test_images_lie_on_the_disk_once(tmp_path):
    first, second = (files_of(stored(tmp_path, made)) for made in (EVEN, UNEVEN))
    shared = {name for name in first if first[name].stat().st_ino == second[name].stat().st_ino}
    pictures = {name for name in first if name.endswith(".png")}
    assert shared == pictures | {"images.safetensors"} and len(pictures) == 6
    alone = disk_usage(EVEN.save(tmp_path / "alone"))
    assert disk_usage(tmp_path / "sets", tmp_path / "set_images") < 1.6 * alone  # five times without links
    assert len(list((tmp_path / "set_images").glob("*/manifest.json"))) == 1


def test_only_the_same_images_of_the_same_classes_are_shared(tmp_path):
    others = (weighted(1.0, 1.0, 1.0, images=noise().flip(0)), weighted(1.0, 1.0, 1.0, names=("cat", "fox")))
    folders = [stored(tmp_path / str(number), made) for number, made in enumerate([EVEN, *others])]
    for made, folder in zip([EVEN, *others], folders, strict=True):
        inodes = {file.stat().st_ino for file in files_of(stored(tmp_path, made)).values()}
        assert len(inodes) == len(files_of(folder))
        assert DistilledSet.load(stored(tmp_path, made), made.class_names).hash == made.hash
    assert len(list((tmp_path / "set_images").glob("*/manifest.json"))) == 3


def test_a_set_is_whole_without_the_others(tmp_path):
    first, second = stored(tmp_path, EVEN), stored(tmp_path, UNEVEN)
    shutil.rmtree(tmp_path / "set_images")
    shutil.rmtree(first)
    read = DistilledSet.load(second, NAMES)
    assert torch.equal(read.images, UNEVEN.images) and torch.equal(read.weights, UNEVEN.weights)
    assert read.hash == UNEVEN.hash
    folder = ImageFolder(second / "train")
    assert folder.targets == UNEVEN.labels.tolist() and folder.classes == ["00000_cat", "00001_dog"]
    assert Store(tmp_path).find("sets", {"hash": UNEVEN.hash, "names": NAMES}) == second


def test_hugging_face_reads_a_set_of_the_store(tmp_path):
    datasets = pytest.importorskip("datasets")
    where = {"data_dir": str(stored(tmp_path, UNEVEN)), "cache_dir": str(tmp_path / "cache")}
    read = datasets.load_dataset("imagefolder", split="train", **where)
    assert read["label"] == UNEVEN.labels.tolist() and read["weight"] == pytest.approx(UNEVEN.weights.tolist())


def test_without_links_the_files_are_copied(tmp_path, monkeypatch):
    def refused(*paths):
        raise OSError("the file system has no links")

    monkeypatch.setattr(os, "link", refused)
    folders = [stored(tmp_path, made) for made in (EVEN, UNEVEN)]
    first, second = ({file.stat().st_ino for file in files_of(folder).values()} for folder in folders)
    assert not first & second
    assert [DistilledSet.load(folder).hash for folder in folders] == [EVEN.hash, UNEVEN.hash]


@pytest.mark.parametrize("name", ["images.safetensors", "train/00000_cat/00001.png"])
def test_damage_that_links_share_is_found_and_mended_everywhere(tmp_path, name):
    for made in (EVEN, UNEVEN):
        folder = stored(tmp_path, made)
    expected = (folder / name).read_bytes()
    with open(folder / name, "r+b") as file:  # in place: the bytes of all links
        file.seek(-20, os.SEEK_END)
        file.write(b"bitrot")
    with pytest.warns(UserWarning, match=f"damaged .*{name}"):
        mended = [stored(tmp_path, made) for made in (EVEN, UNEVEN)]
    for made, folder in zip((EVEN, UNEVEN), mended, strict=True):
        assert (folder / name).read_bytes() == expected
        assert DistilledSet.load(folder).hash == made.hash
    assert (mended[0] / name).stat().st_ino == (mended[1] / name).stat().st_ino


SAVE_AND_DIE = """
import json, os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_shared_images as tests
from PIL import Image

root, dies_in, left = sys.argv[2], sys.argv[3], [int(sys.argv[4])]

def counting(function):
    def counted(*args, **options):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **options)
    return counted

if dies_in == "link":
    os.link = counting(os.link)
else:
    Image.Image.save = counting(Image.Image.save)
print(json.dumps([str(tests.stored(Path(root), made)) for made in (tests.EVEN, tests.UNEVEN)]))
print(left[0])
"""


def save_in_a_process(folder, dies_in, after):
    command = [sys.executable, "-c", SAVE_AND_DIE, os.path.dirname(__file__), str(folder), dies_in, str(after)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("dies_in", "after", "pictures_left"),
    [("save", 3, 6), ("link", 3, 0), ("link", 10, 0)],  # of 6 pictures and 7 links a set
)
def test_killed_in_between_it_goes_on(tmp_path, dies_in, after, pictures_left):
    killed = save_in_a_process(tmp_path, dies_in, after)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    finished = save_in_a_process(tmp_path, "save", 1000)
    assert finished.returncode == 0, finished.stderr[-2000:]
    folders, left = map(json.loads, finished.stdout.splitlines())
    assert 1000 - left == pictures_left  # finished pictures are not made again
    for folder, made in zip(folders, (EVEN, UNEVEN), strict=True):
        assert DistilledSet.load(folder).hash == made.hash
    assert not list(tmp_path.rglob("*.work"))
    assert len({os.stat(f"{folder}/images.safetensors").st_ino for folder in folders}) == 1


def test_a_set_larger_than_memory_is_shared_too(tmp_path, monkeypatch):
    from ddoq_plugin.store import tensor_files

    monkeypatch.setattr(tensor_files, "IN_MEMORY", 0)
    images = tensor_files.empty_tensor((6, 3, 32, 32), torch.uint8, tmp_path / "scratch")
    images[:] = noise()
    folders = [stored(tmp_path, dataclasses.replace(made, images=images)) for made in (EVEN, UNEVEN)]
    assert len({(folder / "images.safetensors").stat().st_ino for folder in folders}) == 1
    assert DistilledSet.load(folders[1]).hash == UNEVEN.hash and not list((tmp_path / "scratch").iterdir())
