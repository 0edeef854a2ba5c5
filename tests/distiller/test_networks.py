"""The doors of networks: what they give, that it is stored once, and that keys follow what it depends on."""

from __future__ import annotations

import pytest
import torch

from ddoq_plugin.data import load_data
from ddoq_plugin.distiller import DistillContext
from ddoq_plugin.errors import DistillError
from ddoq_plugin.evaluation.dynamics import forgetting, training_scores
from ddoq_plugin.evaluation.features import features_and_logits, features_of
from ddoq_plugin.evaluation.inputs import Normaliser
from ddoq_plugin.evaluation.students.build import build_student
from ddoq_plugin.registry import DISTILLERS
from ddoq_plugin.seeding import generator
from ddoq_plugin.store.artifacts import Store, hash_tensors

EPOCHS = 2


@pytest.fixture
def context(tmp_path):
    return DistillContext(load_data("digits", limit_per_class=10), store=Store(tmp_path / "store"))


def made(context, kind):
    return len(list(context.store.root.glob(f"{kind}/*/manifest.json")))


def test_a_network_is_drawn_from_its_seed_alone(context):
    state = torch.random.get_rng_state()
    one, same, other = (context.network("lenet", *seed) for seed in (("dm", 0, 1), ("dm", 0, 1), ("dm", 0, 2)))
    assert torch.equal(torch.random.get_rng_state(), state) and one.training
    hashes = [hash_tensors(*model.state_dict().values()) for model in (one, same, other)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_features_are_what_the_last_layer_takes_and_carry_gradients(context):
    model = context.network("lenet", 0).eval()
    images = torch.rand(3, 3, 16, 16, requires_grad=True)
    features, logits = features_and_logits(model, images)
    last = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)][-1]
    torch.testing.assert_close(last(features), logits)
    assert torch.equal(features_of(model, images), features)
    features.sum().backward()
    assert images.grad.abs().sum() > 0
    assert not last._forward_pre_hooks, "the hook stayed"


def test_features_of_a_class(context):
    pixels = context.features(2, "pixels")
    assert torch.equal(pixels, context.images(2).flatten(1).float() / 255) and made(context, "features") == 0
    assert torch.equal(context.features(2, "latents"), context.latents(2).flatten(1))
    random = context.features(2, "random:lenet", seed=1)
    model = build_student("lenet", 10, 16, seed=0)
    assert (
        random.shape == (10, features_of(model, torch.zeros(1, 3, 16, 16)).shape[1]) and random.dtype == torch.float32
    )
    assert made(context, "features") == 1
    assert torch.equal(context.features(2, "random:lenet", seed=1), random) and made(context, "features") == 1
    assert not torch.equal(context.features(2, "random:lenet", seed=2), random)
    trained = context.network_work("lenet")
    assert [need.address for need in context.features_work(2, "trained:lenet")[0].needs] == [trained.address]
    with pytest.raises(DistillError, match="use pixels, latents"):
        context.features(2, "trained")


def test_scores_come_from_one_training(context):
    kinds = ("loss_early", "loss_late", "forgetting", "el2n")
    scores = {kind: context.scores(kind, student="lenet", epochs=EPOCHS) for kind in kinds}
    assert made(context, "networks") == 1
    for kind, score in scores.items():
        assert score.shape == (100,) and score.dtype == torch.float32 and torch.isfinite(score).all(), kind
    assert scores["loss_late"].mean() < scores["loss_early"].mean()
    again = training_scores(
        context.network("lenet", "scores", 0),
        context.data.train,
        context.normaliser,
        epochs=EPOCHS,
        seed=0,
        device="cpu",
    )
    assert all(torch.equal(again[kind], scores[kind]) for kind in kinds)
    with pytest.raises(DistillError, match="loss_late"):
        context.scores("los_late")


def test_a_trained_network_is_the_one_that_was_scored(context):
    late = context.scores("loss_late", student="lenet", epochs=EPOCHS)
    model = context.trained("lenet", epochs=EPOCHS)
    with torch.no_grad():
        logits = model(context.normaliser(context.data.train.images()))
    losses = torch.nn.functional.cross_entropy(logits, context.data.train.labels, reduction="none")
    torch.testing.assert_close(losses, late, atol=1e-5, rtol=1e-4)
    assert not model.training and made(context, "networks") == 1


def test_forgetting_counts_falls_and_marks_what_was_never_learnt():
    correct = torch.tensor([[1, 0, 1, 0], [0, 0, 1, 1], [1, 0, 1, 0], [0, 0, 1, 1]], dtype=torch.bool)
    assert forgetting(correct).tolist() == [2, 5, 0, 1]


def test_real_batches_repeat_no_image_before_the_class_is_used_up(context):
    batch = context.real_batch(4, 10, generator("test", 0))
    assert sorted(batch.rows.tolist()) == list(range(10)) and batch.weights.tolist() == [1.0] * 10
    assert torch.equal(batch.images, context.images(4)[batch.rows].float() / 255)
    more = context.real_batch(4, 25, generator("test", 0))
    assert (
        more.rows.bincount().tolist() == [3] * 5 + [2] * 5 or sorted(more.rows.bincount().tolist()) == [2] * 5 + [3] * 5
    )
    assert torch.equal(more.rows[:10], batch.rows)


def test_another_sampler_is_part_of_the_keys(context):
    def first(class_id, size, draws):
        return torch.zeros(size, dtype=torch.int64), torch.full((size,), 2.0)

    other = context.with_sampler(first, {"sampler": "the first image"})
    batch = other.real_batch(1, 3, generator("test", 0))
    assert batch.rows.tolist() == [0, 0, 0] and batch.weights.tolist() == [2.0] * 3
    assert context.real_batch(1, 3, generator("test", 0)).weights.tolist() == [1.0] * 3
    method = DISTILLERS.load("random")()
    assert other.set_key(method, 1, None, 0) != context.set_key(method, 1, None, 0)


def test_fewer_images_have_networks_and_batches_of_their_own(context):
    part = context.restricted({class_id: [1, 3, 5] for class_id in range(10)})
    context.real_batch(0, 2, generator("test", 0))
    batch = part.real_batch(0, 3, generator("test", 0))
    assert torch.equal(batch.images, context.images(0)[[1, 3, 5]][batch.rows].float() / 255)
    assert part.network_work("lenet").address != context.network_work("lenet").address
    assert part.normaliser == Normaliser.measured(part.data.train) != context.normaliser
