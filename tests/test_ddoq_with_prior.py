"""DDOQ through a diffusion prior: the spaces of a codebook, the noise of an image, what is shared and what is not."""

from __future__ import annotations

import pytest
import torch
from ddoq_baselines.centroid import DecodedCentroid

from ddoq_plugin import DistillContext
from ddoq_plugin.ddoq import DDOQ
from ddoq_plugin.distiller import CodebookOptions
from ddoq_plugin.errors import ConfigError, PriorError
from ddoq_plugin.store.artifacts import Store
from ddoq_plugin.testing import small_context

FAST = {"steps": 4, "guidance_scale": 2.0}


@pytest.fixture(scope="module")
def context():
    return small_context(with_prior=True)


def test_strength_moves_images_away_from_the_decoded_centroids(context):
    decoded = DecodedCentroid().distill(context, 3)
    unmoved = DDOQ(strength=0.0, weighting="uniform").distill(context, 3)
    moved = DDOQ(strength=0.5, weighting="uniform", **FAST).distill(context, 3)
    assert decoded.image_hash == unmoved.image_hash != moved.image_hash
    with pytest.raises(ConfigError, match="strength"):
        DecodedCentroid(strength=0.5)


def test_noise_depends_on_seed_and_image_not_on_weighting(context):
    one, two = (DDOQ(strength=0.5, weighting=w, **FAST).distill(context, 3, seed=1) for w in ("counts", "uniform"))
    assert one.image_hash == two.image_hash and one.hash != two.hash
    assert DDOQ(strength=0.5, weighting="counts", **FAST).distill(context, 3, seed=2).image_hash != one.image_hash


def test_noise_follows_the_seed(context):
    # one centroid a class is the mean whatever the seed, so that only the noise can differ
    one, two = (DDOQ(strength=0.75, **FAST).distill(context, 1, seed=seed) for seed in (1, 2))
    assert torch.equal(context.codebook(0, 1, 1).centroids, context.codebook(0, 1, 2).centroids)
    assert one.image_hash != two.image_hash


def test_images_of_one_cluster_have_fresh_noise(context):
    made = DDOQ(strength=0.75, weighting="uniform", **FAST).distill(context, 4, clusters=1)
    for class_id in range(10):
        own = [image.numpy().tobytes() for image in made.images[made.labels == class_id]]
        assert len(set(own)) == 4


def test_noise_space_clusters_inverted_images(context):
    options = CodebookOptions(space="noise", inversion_steps=4)
    inverted, plain = context.latents(0, options), context.latents(0)
    assert inverted.shape == plain.shape and not torch.allclose(inverted, plain, atol=0.1)
    made = DDOQ(space="noise", inversion_steps=4, **FAST).distill(context, 2)
    assert made.provenance["stats"]["space"] == "noise"
    assert made.image_hash != DDOQ(**FAST).distill(context, 2).image_hash


def test_pixel_space_decodes_the_latents_of_real_images(context):
    made = DDOQ(space="pixel", strength=0.0).distill(context, 2)
    codebook_options = CodebookOptions(space="pixel")
    for class_id in (0, 9):
        book = context.codebook(class_id, 2, 0, codebook_options)
        expected = context.prior.decode(context.latents(class_id)[book.nearest])
        shown = made.images[made.labels == class_id].float() / 255
        assert float((shown - expected).abs().max()) < 0.02


def test_sampled_latents_are_the_same_every_time_and_not_the_mode(context):
    sample = CodebookOptions(encoding="sample")
    again = DistillContext(context.data, context.prior)
    assert torch.equal(context.latents(3, sample), again.latents(3, sample))
    assert not torch.equal(context.latents(3, sample), context.latents(3))


def test_generation_is_stored_by_its_content(context, tmp_path, monkeypatch):
    stored = DistillContext(context.data, context.prior, Store(tmp_path))
    first = DDOQ(strength=0.5, weighting="uniform", **FAST).distill(stored, 2)
    monkeypatch.setattr(type(context.prior), "generate", lambda *args, **options: pytest.fail("generated twice"))
    again = DDOQ(strength=0.5, weighting="sqrt", **FAST).distill(stored, 2)
    assert again.image_hash == first.image_hash
    with pytest.raises(pytest.fail.Exception, match="generated twice"):
        DDOQ(strength=0.75, weighting="sqrt", **FAST).distill(stored, 2)


def test_another_prior_never_passes_off_stored_images(context, tmp_path, monkeypatch):
    stored = DistillContext(context.data, context.prior, Store(tmp_path))
    latents, classes = stored.latents(0)[:2], torch.tensor([0, 0])
    settings = {"seeds": [1, 2], "strength": 0.5, **FAST}
    stored.generate(latents, classes, **settings)
    monkeypatch.setattr(context.prior, "fingerprint", "another prior")
    monkeypatch.setattr(type(context.prior), "generate", lambda *args, **options: pytest.fail("asked the new prior"))
    with pytest.raises(pytest.fail.Exception, match="asked the new prior"):
        stored.generate(latents, classes, **settings)


def test_classes_the_prior_does_not_know_are_named(context):
    import dataclasses

    renamed = dataclasses.replace(context.data, class_names=("walrus", *context.data.class_names[1:]))
    with pytest.raises(PriorError, match="walrus"):
        DistillContext(renamed, context.prior)
    context.prior.bind_classes(context.data.class_names)
