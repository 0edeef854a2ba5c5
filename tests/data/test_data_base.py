"""Splits, the stratified cut, choosing classes, limits and fingerprints."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from ddoq_plugin.data import ArraySplit, load_data, make_image_data
from ddoq_plugin.data.splitting import limit_indices, stratified_cut
from ddoq_plugin.errors import ConfigError, DataError

NAMES = ("a", "b", "c")


def array_split(labels, size=4, seed=0):
    pixels = torch.randint(0, 256, (len(labels), 3, size, size), dtype=torch.uint8, generator=torch.manual_seed(seed))
    return ArraySplit(pixels, torch.tensor(labels))


def test_array_split_gives_its_rows_in_the_order_asked():
    split = array_split([0, 1, 2, 1])
    assert torch.equal(split.images([3, 0]), split.images()[[3, 0]])
    part = split.subset([3, 1, 0])
    assert part.labels.tolist() == [1, 1, 0]
    assert torch.equal(part.images(torch.tensor([0, 2])), split.images([3, 0]))
    assert torch.equal(part.subset([2]).images(), split.images([0]))
    assert split.class_indices(1).tolist() == [1, 3]
    assert split.class_indices(1).dtype == torch.int64
    assert [split.class_indices(c).tolist() for c in (2, 3, -1)] == [[2], [], []]


def test_batches_cover_a_split_once_in_order():
    split = array_split([0, 1, 2, 1, 0])
    images, labels = zip(*split.batches(2), strict=True)
    assert [len(part) for part in images] == [2, 2, 1]
    assert torch.equal(torch.cat(images), split.images())
    assert torch.equal(torch.cat(labels), split.labels)


@pytest.mark.parametrize("pixels", [torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.uint8),
                                    torch.zeros(2, 3, 4, 5, dtype=torch.uint8)])  # fmt: skip
def test_array_split_refuses_other_layouts(pixels):
    with pytest.raises(DataError, match="uint8"):
        ArraySplit(pixels, torch.zeros(2))


def test_array_split_refuses_missing_labels():
    with pytest.raises(DataError, match="2 images but 3 labels"):
        ArraySplit(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3))


def test_stratified_cut_takes_its_share_of_each_class_and_at_least_one():
    labels = torch.tensor([0] * 40 + [1] * 3 + [2])
    kept, cut = stratified_cut(labels, NAMES, 0.1)
    assert torch.bincount(labels[cut], minlength=3).tolist() == [4, 1, 0]
    assert sorted([*kept.tolist(), *cut.tolist()]) == list(range(44))
    assert all(torch.equal(part, part.sort().values) for part in (kept, cut))


def test_stratified_cut_never_takes_a_whole_class():
    labels = torch.tensor([0, 0, 1, 1, 1])
    _, cut = stratified_cut(labels, NAMES[:2], 0.99)
    assert torch.bincount(labels[cut]).tolist() == [1, 2]


def test_a_class_keeps_its_cut_when_it_is_part_of_a_subset():
    labels = torch.tensor([0] * 20 + [1] * 20)
    _, both = stratified_cut(labels, ("a", "b"), 0.25)
    _, alone = stratified_cut(torch.zeros(20, dtype=torch.int64), ("b",), 0.25)
    assert (both[both >= 20] - 20).tolist() == alone.tolist()


def test_validation_is_never_in_train():
    train = array_split([0, 1] * 30)
    train._pixels[:, 0, 0, 0] = torch.arange(60)
    data = make_image_data("toy", NAMES[:2], train, array_split([0, 1]), val_fraction=0.2)
    seen = {part: set(data.split(part).images()[:, 0, 0, 0].tolist()) for part in ("train", "val")}
    assert seen["train"] | seen["val"] == set(range(60))
    assert not seen["train"] & seen["val"]
    assert data.class_counts().tolist() == [24, 24]
    assert data.class_counts("val").tolist() == [6, 6]


def test_a_given_validation_split_is_used_as_it_is():
    val = array_split([0, 1, 1], seed=5)
    data = make_image_data("toy", NAMES[:2], array_split([0, 1] * 3), array_split([0, 1]), val=val)
    assert torch.equal(data.val.images(), val.images())
    assert len(data.train) == 6


def test_a_class_of_one_image_keeps_it_for_training_and_this_is_noted():
    data = make_image_data("toy", NAMES[:2], array_split([0, 0, 0, 1]), array_split([0, 1]))
    assert data.class_counts().tolist() == [2, 1]
    assert "no validation image of b" in data.notes[0]


def test_limit_is_a_fixed_choice_per_class():
    labels = torch.tensor([0, 1] * 10)
    chosen = limit_indices(labels, ("a", "b"), 3)
    assert torch.bincount(labels[chosen]).tolist() == [3, 3]
    assert torch.equal(chosen, limit_indices(labels, ("a", "b"), 3))
    assert set(chosen.tolist()) < set(limit_indices(labels, ("a", "b"), 5).tolist())


def test_choosing_classes_relabels_in_the_order_given():
    train = array_split([0, 1, 2] * 4)
    data = make_image_data("toy", NAMES, train, array_split([0, 1, 2]), classes=["c", "a"])
    assert data.class_names == ("c", "a")
    everything = torch.cat([data.train.images(data.train.class_indices(0)), data.val.images(data.val.class_indices(0))])
    assert sorted(everything[:, 0, 0, 0].tolist()) == sorted(train.images(train.class_indices(2))[:, 0, 0, 0].tolist())
    assert data.test.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": ["a", "bb"]}, r"no class 'bb'; did you mean 'b'"),
        ({"classes": ["a", "a"]}, "twice"),
        ({"classes": "a"}, "must be a list"),
        ({"classes": ["a"]}, "at least two"),
        ({"val_fraction": 0.0}, "between 0 and 1"),
        ({"limit_per_class": 0}, "positive"),
    ],
)
def test_wrong_choices_are_named(options, words):
    with pytest.raises(DataError, match=words):
        make_image_data("toy", ("a", "b", "c"), array_split([0, 1, 2] * 3), array_split([0, 1, 2]), **options)


@pytest.mark.parametrize(
    ("train", "test", "names", "words"),
    [
        ([0, 1, 3], [0, 1], ("a", "b", "c"), "label 3, but there are 3 class names"),
        ([0, 1], [0, -1], ("a", "b"), "test split of toy has the label -1"),
        ([0, 1, 1], [0, 1], ("a", "b", "c"), "no train image of class 'c'"),
        ([0, 1, 1], [1, 1], ("a", "b"), "no test image of class 'a'"),
        ([0, 0], [0], ("a",), "at least two"),
        ([0, 1], [0, 1], ("a", "a"), "two classes called 'a'"),
    ],
)
def test_wrong_labels_are_named(train, test, names, words):
    with pytest.raises(DataError, match=words):
        make_image_data("toy", names, array_split(train), array_split(test))


def test_the_fingerprint_sees_pixels_labels_names_and_the_split():
    def mark(train=None, names=("a", "b"), **options):
        train = train or array_split([0, 1] * 10)
        return make_image_data("toy", names, train, array_split([0, 1], seed=1), **options).fingerprint

    changed = array_split([0, 1] * 10)
    changed._pixels[7, 1, 2, 3] ^= 1
    marks = [
        mark(),
        mark(changed),
        mark(array_split([0, 1] * 9 + [1, 0])),
        mark(names=("a", "z")),
        mark(val_fraction=0.3),
    ]
    assert len(set(marks)) == len(marks)
    assert mark() == marks[0]


def test_digits_has_its_documented_splits():
    data = load_data("digits")
    assert (len(data.train) + len(data.val), len(data.test)) == (1347, 450)
    assert (data.num_classes, data.image_size) == (10, 16)
    images = data.train.images([0, 1])
    assert images.shape == (2, 3, 16, 16) and images.dtype == torch.uint8
    assert torch.equal(images[:, 0], images[:, 2])
    assert data.class_counts("test").min() >= 43 and data.class_counts("val").min() >= 12
    data.check()


def test_digits_images_are_the_scikit_learn_ones_scaled():
    from sklearn.datasets import load_digits

    data = load_data("digits", image_size=8)
    ours = torch.cat([data.split(part).images()[:, 0] for part in ("train", "val", "test")]).flatten(1)
    theirs = torch.from_numpy((load_digits().data * 255 / 16).round()).to(torch.uint8)
    assert sorted(map(tuple, ours.tolist())) == sorted(map(tuple, theirs.tolist()))


def test_digits_are_the_same_in_another_process():
    code = "from ddoq_plugin.data import load_data; print(load_data('digits').fingerprint)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == load_data("digits").fingerprint


def test_limit_leaves_validation_and_test_whole():
    full, few = load_data("digits"), load_data("digits", limit_per_class=5, classes=["three", "seven"])
    assert few.class_counts().tolist() == [5, 5]
    for part in ("val", "test"):
        assert few.class_counts(part).tolist() == full.class_counts(part)[[3, 7]].tolist()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("digits", {"img_size": 8}, "no option 'img_size'; did you mean 'image_size'"),
        ("digits", {"image_size": 0}, "positive number of pixels"),
        ("imagenette", {}, "needs the option 'root'"),
        ("npz:x.npz", {"path": "y.npz"}, "names its path already"),
        ("cifar_10", {}, "cifar10"),
    ],
)
def test_load_data_names_wrong_options(name, options, words):
    with pytest.raises((DataError, ConfigError), match=words):
        load_data(name, **options)


def test_a_split_that_does_not_exist_is_named():
    with pytest.raises(DataError, match="'valid'"):
        load_data("digits").class_counts("valid")


def test_the_package_stays_light_until_data_is_loaded():
    code = "import sys, ddoq_plugin.data; print([m for m in ('torch', 'sklearn', 'numpy', 'PIL') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_every_entry_points_at_a_loader():
    from ddoq_plugin.data import ENTRIES
    from ddoq_plugin.registry import DATASETS

    names = [entry.name for entry in ENTRIES]
    assert len(set(names)) == len(names)
    assert all(callable(DATASETS.load(name)) for name in names)
