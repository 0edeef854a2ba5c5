from __future__ import annotations

import numpy as np
import pytest
import torch

from ddoq_plugin.evaluation.augment import (
    CropParams,
    affine_maps,
    apply,
    cut,
    is_identity,
    sample_params,
)
from ddoq_plugin.evaluation.batches import PAGE_STEPS, BatchPlan
from ddoq_plugin.evaluation.inputs import Normaliser, centre_crop, fit_size
from ddoq_plugin.evaluation.mixing import MixParams, apply_mix, sample_mixes
from ddoq_plugin.evaluation.protocol import Augmentation, Mixing

RESIZED = Augmentation(crop="resized", scale=(0.3, 0.9), flip=0.5)


@pytest.fixture
def images():
    return torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def identity_params(n: int) -> CropParams:
    return CropParams(torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(n, 1), torch.zeros(n, dtype=torch.bool))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_identity_parameters_are_the_identity(images):
    torch.testing.assert_close(apply(images, identity_params(5)), images, atol=1e-6, rtol=0)


def test_a_flip_is_the_mirror_and_two_flips_are_the_identity(images):
    flip = CropParams(identity_params(5).boxes, torch.ones(5, dtype=torch.bool))
    once = apply(images, flip)
    torch.testing.assert_close(once, images.flip(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(apply(once, flip), images, atol=1e-6, rtol=0)


def test_a_box_on_pixel_borders_cuts_those_pixels(images):
    boxes = torch.tensor([[2 / 8, 1 / 8, 4 / 8, 4 / 8]]).repeat(5, 1)
    cropped = apply(images, CropParams(boxes, torch.zeros(5, dtype=torch.bool)), size=4)
    torch.testing.assert_close(cropped, images[:, :, 1:5, 2:6], atol=1e-6, rtol=0)


def test_a_shift_moves_by_whole_pixels_and_fills_with_black(images):
    boxes = torch.tensor([[2 / 8, -1 / 8, 1.0, 1.0]]).repeat(5, 1)
    maps = affine_maps(CropParams(boxes, torch.zeros(5, dtype=torch.bool)))
    black = torch.full((1, 3, 1, 1), -0.7)
    moved = cut(images, maps, 8, black=black)
    expected = torch.full_like(images, -0.7)
    expected[:, :, 1:, :6] = images[:, :, :7, 2:]
    torch.testing.assert_close(moved, expected, atol=1e-6, rtol=0)


def test_sampled_shifts_are_pixels_within_the_padding():
    params = sample_params(Augmentation(crop="shift", padding=2), 200, 16, rng())
    offsets = params.boxes[:, :2] * 16
    assert set(offsets.flatten().tolist()) == {-2.0, -1.0, 0.0, 1.0, 2.0}
    assert (params.boxes[:, 2:] == 1).all() and not params.flips.any()


def test_resized_boxes_lie_in_the_image_with_the_asked_areas_and_aspects():
    boxes = sample_params(RESIZED, 2000, 16, rng()).boxes
    x, y, width, height = boxes.unbind(1)
    assert (x >= 0).all() and (y >= 0).all()
    assert (x + width <= 1 + 1e-6).all() and (y + height <= 1 + 1e-6).all()
    area, aspect = width * height, width / height
    whole = area == 1
    assert whole.sum() < 20
    assert area[~whole].min() >= 0.3 - 1e-5 and area[~whole].max() <= 0.9 + 1e-5
    assert aspect.min() >= 0.75 - 1e-5 and aspect.max() <= 4 / 3 + 1e-5
    assert 0.45 < sample_params(RESIZED, 2000, 16, rng()).flips.float().mean() < 0.55


def test_the_same_stream_gives_the_same_parameters_and_replays_exactly(images):
    first, again = sample_params(RESIZED, 5, 8, rng(3)), sample_params(RESIZED, 5, 8, rng(3))
    assert torch.equal(first.boxes, again.boxes) and torch.equal(first.flips, again.flips)
    assert torch.equal(apply(images, first), apply(images, again))
    assert not torch.equal(first.boxes, sample_params(RESIZED, 5, 8, rng(4)).boxes)


def test_only_no_crop_and_no_flip_is_the_identity():
    assert is_identity(Augmentation())
    assert not is_identity(Augmentation(flip=0.1)) and not is_identity(Augmentation(crop="shift", padding=1))


def test_cutmix_replaces_exactly_its_box_and_lam_is_the_share_that_stays(images):
    mixes = sample_mixes(Mixing(name="cutmix", alpha=1.0), 50, 5, 8, rng())
    for step in range(50):
        x0, y0, x1, y1 = mixes.boxes[step].tolist()
        partners, lam = mixes.partners[step], mixes.lam[step].item()
        mixed = apply_mix(images.clone(), partners, lam, (x0, y0, x1, y1), "cutmix")
        inside = torch.zeros(8, 8, dtype=torch.bool)
        inside[y0:y1, x0:x1] = True
        assert lam == pytest.approx(1 - inside.float().mean().item())
        assert torch.equal(mixed[:, :, inside], images[partners][:, :, inside])
        assert torch.equal(mixed[:, :, ~inside], images[:, :, ~inside])


def test_mixup_is_the_convex_combination(images):
    partners = torch.tensor([1, 0, 3, 4, 2])
    mixed = apply_mix(images.clone(), partners, 0.3, (0, 0, 0, 0), "mixup")
    torch.testing.assert_close(mixed, 0.3 * images + 0.7 * images[partners])


def test_pairings_are_permutations_and_the_probability_is_kept():
    mixes = sample_mixes(Mixing(name="mixup", probability=0.3), 1000, 6, 8, rng())
    assert torch.equal(mixes.partners.sort(1).values, torch.arange(6).expand(1000, 6))
    assert 0.25 < (mixes.lam < 1).float().mean() < 0.35
    assert isinstance(mixes, MixParams)


def plan(num_images: int = 7, batch_size: int = 3, seed: int = 5) -> BatchPlan:
    return BatchPlan(num_images, batch_size, 8, 8, RESIZED, Mixing(name="cutmix"), seed)


def test_a_plan_visits_every_image_once_an_epoch():
    stream = torch.cat([plan().page(number).indices.flatten() for number in range(3)])
    for epoch in stream[: len(stream) // 7 * 7].view(-1, 7):
        assert sorted(epoch.tolist()) == list(range(7))


def test_any_page_can_be_drawn_alone_and_pages_differ():
    one, two = plan(), plan()
    for number in range(3):
        one.page(number)
    assert torch.equal(one.page(1).indices, two.page(1).indices)
    assert torch.equal(one.page(1).crops.boxes, two.page(1).crops.boxes)
    assert torch.equal(one.page(1).mixes.lam, two.page(1).mixes.lam)
    assert not torch.equal(one.page(0).crops.boxes, one.page(1).crops.boxes)
    assert one.page(0).indices.shape == (PAGE_STEPS, 3)


def test_normalisation_is_undone_and_maps_the_measured_data_to_mean_0_and_deviation_1():
    from evaluation_helpers import tiny_data

    data = tiny_data()
    normaliser = Normaliser.measured(data.train)
    normalised = normaliser(data.train.images())
    torch.testing.assert_close(normalised.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalised.std((0, 2, 3), unbiased=False), torch.ones(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(normaliser.undo(normalised), data.train.images().float() / 255, atol=1e-6, rtol=0)


def test_centre_crop_keeps_the_middle_and_equal_sizes_are_untouched():
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    assert fit_size(images, 8) is images
    assert torch.equal(centre_crop(images, 1.0, 8), images)
    assert torch.equal(centre_crop(fit_size(images, 16), 16 / 8, 8), fit_size(images, 16)[:, :, 4:12, 4:12])
