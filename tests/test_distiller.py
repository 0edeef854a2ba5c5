from __future__ import annotations

import pytest
import torch
from ddoq_baselines.d4m import D4M
from ddoq_baselines.k_medoids import KMedoids
from ddoq_baselines.random_selection import RandomSelection

from ddoq_plugin import DistillContext, load_data, load_prior
from ddoq_plugin.ddoq import DDOQ
from ddoq_plugin.distiller import CodebookOptions, Distiller
from ddoq_plugin.errors import ConfigError, DistillError
from ddoq_plugin.store.artifacts import Store


@pytest.fixture(scope="module")
def data():
    return load_data("digits", limit_per_class=30)


@pytest.fixture(scope="module")
def context(data):
    return DistillContext(data, load_prior("pixel", image_size=data.image_size))


def ddoq(**settings):
    return DDOQ(strength=0.0, **settings)


def test_weightings_share_images_and_differ_in_weights_alone(context):
    made = {w: ddoq(weighting=w).distill(context, 6, seed=1) for w in ("uniform", "counts", "sqrt")}
    assert len({s.image_hash for s in made.values()}) == 1
    assert len({s.hash for s in made.values()}) == 3
    assert made["uniform"].weights.tolist() == [1.0] * 60
    for class_id in range(10):
        counts = made["counts"].weights[made["counts"].labels == class_id]
        roots = made["sqrt"].weights[made["sqrt"].labels == class_id]
        assert torch.allclose(roots, counts.sqrt() / counts.sqrt().mean(), atol=1e-6)
        book = context.codebook(class_id, 6, 1, CodebookOptions())
        assert torch.allclose(counts, (book.masses * 6).float(), atol=1e-6)


def test_power_runs_from_uniform_to_counts(context):
    weights = {a: ddoq(weighting="power", alpha=a).distill(context, 6).weights for a in (0, 0.5, 1)}
    for alpha, name in ((0, "uniform"), (0.5, "sqrt"), (1, "counts")):
        assert torch.allclose(weights[alpha], ddoq(weighting=name).distill(context, 6).weights, atol=1e-6)


def test_recorded_w2_is_least_for_counts(context):
    stats = {w: ddoq(weighting=w).distill(context, 8).provenance["stats"] for w in ("uniform", "counts", "sqrt")}
    assert stats["counts"]["w2_used"] <= stats["sqrt"]["w2_used"] + 1e-9
    assert stats["counts"]["w2_used"] <= stats["uniform"]["w2_used"] + 1e-9
    assert stats["uniform"]["w2_used"] == pytest.approx(stats["uniform"]["w2_uniform"])
    assert stats["uniform"]["effective_sample_size"] == pytest.approx(8)
    assert stats["counts"]["effective_sample_size"] < 8


def test_balanced_needs_no_weights(context):
    made = ddoq(masses="balanced", weighting="counts").distill(context, 5)
    assert torch.allclose(made.weights, torch.ones(50), atol=1e-6)
    stats = made.provenance["stats"]
    assert stats["w2_used"] == pytest.approx(stats["w2_uniform"])


def test_one_image_a_class_is_the_same_for_every_k_and_weighting(context):
    hashes = {ddoq(weighting=w).distill(context, 1, clusters=k).hash for w in ("uniform", "sqrt") for k in (1, 7, None)}
    assert len(hashes) == 1


def test_decoded_mean_of_pixels_is_the_mean_image(context, data):
    made = ddoq().distill(context, 1)
    real = data.train.images(data.train.class_indices(3)).float().mean(0)
    assert float((made.images[3].float() - real).abs().max()) <= 0.6  # rounding, and latents kept in float16


def test_fewer_clusters_than_images_repeat_with_fresh_noise_and_split_weights(context):
    made = ddoq(weighting="counts").distill(context, 6, clusters=2)
    first = made.images[made.labels == 0]
    assert len({image.numpy().tobytes() for image in first}) == 2  # strength 0: no noise to tell them apart
    assert made.weights[made.labels == 0].mean() == pytest.approx(1)


def test_d4m_is_always_equal_weights_and_differs_from_lloyd(context):
    for clusters in (3, 6, 12):
        assert D4M(strength=0.0).distill(context, 6, clusters=clusters).weights.tolist() == [1.0] * 60
    assert D4M(strength=0.0).distill(context, 6).image_hash != ddoq().distill(context, 6).image_hash
    with pytest.raises(ConfigError, match="weighting"):
        D4M(weighting="counts")


def test_d4m_publishes_its_settings():
    config = D4M().config
    assert (config.strength, config.guidance_scale, config.steps, config.km_expand) == (0.7, 8.0, 50, 1)
    assert (config.clustering, config.encoding, config.weighting) == ("d4m", "sample", "uniform")


def test_medoids_are_the_nearest_real_images(context):
    made = KMedoids().distill(context, 4)
    for class_id in range(10):
        book = context.codebook(class_id, 4)
        images, latents = context.images(class_id), context.latents(class_id).flatten(1)
        for picked, cluster in zip(made.images[made.labels == class_id], range(4), strict=True):
            cell = torch.nonzero(book.assignment == cluster).flatten()
            distances = torch.cdist(latents[cell].double(), book.centroids[cluster][None].double()).flatten()
            nearest = cell[distances <= distances.min() + 1e-5]  # both samples of a cell of two are
            assert any(torch.equal(picked, images[index]) for index in nearest)


def test_random_selection_is_nested_in_nothing_but_its_seed(context):
    first, again = (RandomSelection().distill(context, 5, seed=3).hash for _ in range(2))
    assert first == again != RandomSelection().distill(context, 5, seed=4).hash


def test_store_gives_the_same_bits_as_no_store(data, tmp_path):
    prior = load_prior("pixel", image_size=data.image_size)
    stored = DistillContext(data, prior, Store(tmp_path))
    for _ in range(2):
        for clusters in (None, 9):
            expected = ddoq().distill(DistillContext(data, prior), 5, clusters=clusters, seed=2)
            assert ddoq().distill(stored, 5, clusters=clusters, seed=2).hash == expected.hash


def test_filled_codebooks_are_those_made_alone(data, tmp_path):
    prior = load_prior("pixel", image_size=data.image_size)
    filled, pairs = DistillContext(data, prior, Store(tmp_path)), [(2, 0), (2, 1), (5, 0), (5, 1)]
    filled.do_together([filled.codebook_work(0, clusters, seed) for clusters, seed in pairs])
    assert len(list(tmp_path.glob("codebooks/*/manifest.json"))) == 4
    for clusters, seed in pairs:
        book = filled.codebook(0, clusters, seed)
        alone = DistillContext(data, prior).codebook(0, clusters, seed)
        assert torch.equal(alone.centroids, book.centroids) and alone.distortion == book.distortion


def test_cost_is_that_of_making_whoever_made_it(data, tmp_path):
    prior = load_prior("pixel", image_size=data.image_size)
    first, second = (DistillContext(data, prior, Store(tmp_path)) for _ in range(2))
    for context in (first, second):
        ddoq().distill(context, 5)
    made = first.cost()
    assert {kind: cost.images for kind, cost in made.items()} == {"latents": 300, "codebooks": 300, "images": 50}
    for cost in made.values():
        assert cost.seconds > 0 and cost.peak_memory_mb > 0 and cost.device == "cpu"
    assert second.cost() == made
    second.reset_cost()
    assert second.cost() == {}


def test_only_the_training_split_is_used(context, data):
    everything = torch.cat([context.images(c) for c in range(10)])
    train = {image.numpy().tobytes() for image in data.train.images()}
    assert {image.numpy().tobytes() for image in everything} == train


def test_errors(context, data):
    with pytest.raises(ConfigError, match="'weightings'; did you mean 'weighting'"):
        DDOQ(weightings="sqrt")
    with pytest.raises(DistillError, match="needs alpha"):
        DDOQ(weighting="power")
    with pytest.raises(DistillError, match="class .* has 30 training images and 'random' needs 31 images"):
        RandomSelection().distill(context, 31)
    with pytest.raises(DistillError, match="needs 31 clusters"):
        ddoq().distill(context, 3, clusters=31)
    with pytest.raises(DistillError, match="cannot denoise"):
        DDOQ(strength=0.5).distill(context, 3)
    for settings, message in (
        ({"strength": 0.01, "steps": 20}, "runs none"),
        ({"strength": 0.5, "scheduler": "DDIMSchedular"}, "did you mean 'DDIMScheduler'"),
        ({"strength": 0.0, "space": "noise"}, "needs a diffusion prior"),
    ):
        with pytest.raises(DistillError, match=message):
            DDOQ(**settings).distill(context, 3)
    with pytest.raises(ConfigError, match="set clustering: lloyd"):
        KMedoids(masses="balanced", clustering="d4m")
    with pytest.raises(DistillError, match="needs a prior"):
        DDOQ().distill(DistillContext(data), 3)


def test_nan_latents_name_the_class(data):
    class Broken(type(load_prior("pixel", image_size=16))):
        def encode(self, images, **options):
            return super().encode(images, **options) * float("nan")

    broken = load_prior("pixel", image_size=16)
    broken.__class__ = Broken
    with pytest.raises(DistillError, match=r"NaN.*class 'zero'"):
        ddoq().distill(DistillContext(data, broken), 3)


@pytest.mark.parametrize("wrong", [CodebookOptions, {"start": 0}])
def test_a_config_without_the_common_settings_is_an_error_where_it_is_written(wrong):
    with pytest.raises(DistillError, match="Mine.Config has not the settings of every method"):

        class Mine(Distiller):
            Config = wrong
