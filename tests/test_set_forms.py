"""Sets beyond plain uint8 images: floats, preprocessing, targets, learnt rates, stages, mosaics."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddoq_plugin import DistilledSet
from ddoq_plugin.data.base import ArraySplit
from ddoq_plugin.data.transforms import decode_mosaic
from ddoq_plugin.errors import DataError
from ddoq_plugin.preprocessing import PIXELS, Preprocessing
from ddoq_plugin.record import make_row

GOLDEN = Path(__file__).parent / "golden"
NAMES = ("cat", "dog")


def random_split(count=20, size=4):
    stream = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (count, 3, size, size), generator=stream, dtype=torch.uint8)
    return ArraySplit(pixels, torch.arange(count) % 2)


SPACES = {kind: Preprocessing.fit(kind, random_split()) for kind in ("none", "standardised", "zca")}


def float_set(kind="zca", **changes):
    stream = torch.Generator().manual_seed(1)
    pixels = torch.rand(4, 3, 4, 4, generator=stream)
    parts = {
        "images": None,
        "labels": torch.tensor([0, 0, 1, 1]),
        "class_names": NAMES,
        "floats": SPACES[kind].apply(pixels),
        "preprocessing": SPACES[kind],
        "targets": torch.randn(4, 2, generator=stream),
        "target_kind": "regression",
        "learning_rate": 0.02,
        "stage": torch.tensor([0, 1, 0, 1]),
    }
    return DistilledSet(**{**parts, **changes}), pixels


def test_zca_equals_the_published_values():
    golden = {name: torch.from_numpy(value) for name, value in np.load(GOLDEN / "zca_eps0p1.npz").items()}

    class Fractions(ArraySplit):  # the values were computed from images between the steps of uint8
        def batches(self, size):
            yield golden["fit"] * 255, self.labels

    placeholder = torch.zeros(golden["fit"].shape, dtype=torch.uint8)
    split = Fractions(placeholder, torch.zeros(len(placeholder), dtype=torch.int64))
    made = Preprocessing.fit("zca", split, eps=float(golden["eps"]))
    torch.testing.assert_close(made.apply(golden["fit"]), golden["whitened_fit"], atol=2e-4, rtol=2e-4)
    torch.testing.assert_close(made.apply(golden["other"]), golden["whitened_other"], atol=2e-4, rtol=2e-4)
    torch.testing.assert_close(made.undo(golden["whitened_other"]), golden["inverse_other"], atol=2e-4, rtol=2e-4)


def test_mosaics_are_decoded_as_published():
    golden = {name: torch.from_numpy(value) for name, value in np.load(GOLDEN / "idc_decode_f2.npz").items()}
    stored = golden["x"].double().requires_grad_()
    decoded = decode_mosaic(stored)
    torch.testing.assert_close(decoded, golden["decoded"], atol=1e-9, rtol=1e-9)
    (gradient,) = torch.autograd.grad((decoded * golden["cotangent"]).sum(), stored)
    torch.testing.assert_close(gradient, golden["gx"], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("kind", ["none", "standardised", "zca"])
def test_a_set_with_everything_comes_back_exactly(kind, tmp_path):
    made, pixels = float_set(kind)
    read = DistilledSet.load(made.save(tmp_path / "set"), NAMES)
    for name in ("images", "labels", "weights", "targets", "floats", "stage"):
        assert torch.equal(getattr(read, name), getattr(made, name)), name
    for name in ("target_kind", "learning_rate", "mosaic", "hash", "image_hash"):
        assert getattr(read, name) == getattr(made, name), name
    assert read.preprocessing.hash == made.preprocessing.hash
    # the PNG is the picture that a person expects, rounded
    png = np.array(Image.open(tmp_path / "set" / "train" / "00000_cat" / "00000.png"))
    assert (torch.from_numpy(png).permute(2, 0, 1) / 255 - pixels[0]).abs().max() < 0.01
    about = json.loads((tmp_path / "set" / "provenance.json").read_text())
    assert about["preview"] is True and "previews" in about["pictures"]


@pytest.mark.parametrize("kind", ["none", "standardised", "zca"])
def test_preprocessing_can_be_undone(kind):
    pixels = torch.rand(3, 3, 4, 4)
    space = SPACES[kind]
    torch.testing.assert_close(space.undo(space.apply(pixels)), pixels, atol=1e-4, rtol=1e-4)
    whole = (pixels * 255).round().byte()
    torch.testing.assert_close(space(whole), space.apply(whole.float() / 255))
    assert torch.equal(space(space.apply(pixels)), space.apply(pixels))  # floats lie in the space already


def test_the_hash_covers_each_part_and_plain_sets_keep_theirs():
    made, _ = float_set()
    others = [
        {"learning_rate": 0.03},
        {"stage": None},
        {"stage": torch.tensor([0, 0, 1, 1])},
        {"target_kind": "logits"},
        {"preprocessing": PIXELS, "images": made.images},
        {"floats": made.floats + 1e-3, "images": made.images},
    ]
    hashes = {made.hash} | {dataclasses.replace(made, **change).hash for change in others}
    assert len(hashes) == 1 + len(others)
    plain = DistilledSet(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]), NAMES)
    assert (plain.hash, plain.image_hash) == (
        "582db1482f73d63f154a",
        "c55635f5df6126ec252f",
    )  # as in the first version of the package
    assert dataclasses.replace(plain, mosaic=2).image_hash != plain.image_hash


def test_rows_say_what_a_set_is():
    made, _ = float_set()
    row = make_row({"ipc": 2, "seed": 0, "student": "mlp", "method": "x", "label": "x"}, made)
    assert (row["mosaic"], row["preprocessing"], row["target_kind"]) == (1, "zca", "regression")
    assert (row["learnt_rate"], row["stages"]) == (0.02, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"floats": torch.zeros(4, 3, 4, 4, dtype=torch.float64)}, "float32"),
        ({"floats": torch.full((4, 3, 4, 4), float("nan"))}, "finite"),
        ({"floats": torch.zeros(4, 3, 5, 5)}, "ZCA matrix is for 48"),
        ({"floats": None}, "needs images"),
        ({"targets": None}, "regression"),
        ({"target_kind": "softmax"}, "target_kind"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"stage": torch.tensor([0, 2, 0, 2])}, "without a gap"),
        ({"stage": torch.tensor([0, 1])}, "one an image"),
        ({"mosaic": 2}, "ZCA space"),
        ({"mosaic": 3, "preprocessing": PIXELS}, "mosaic must be"),
        ({"images": torch.zeros(4, 3, 8, 8, dtype=torch.uint8)}, "preview"),
    ],
)
def test_what_does_not_fit_is_an_error(changes, message):
    with pytest.raises(DataError, match=message):
        float_set(**changes)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "whitened"}, "use one of none"),
        ({"kind": "standardised"}, "was given"),
        ({"kind": "standardised", "mean": torch.zeros(3), "std": torch.zeros(3)}, "above 0"),
        ({"kind": "zca", "mean": torch.zeros(48), "matrix": torch.zeros(12, 12)}, "was given"),
    ],
)
def test_a_preprocessing_that_does_not_fit_is_an_error(given, message):
    with pytest.raises(DataError, match=message):
        Preprocessing(**given)


def test_zca_of_large_images_is_refused():
    split = ArraySplit(torch.zeros(2, 3, 80, 80, dtype=torch.uint8), torch.tensor([0, 1]))
    with pytest.raises(DataError, match="at most 64 px"):
        Preprocessing.fit("zca", split)
