"""The protocols of the DC line: the published training loop, DSA in training, and what does not go together."""

from __future__ import annotations

import pytest
import torch
from evaluation_helpers import SIZE, SOFT, protocol, tiny_data
from pydantic import ValidationError
from torch.nn import functional as F

from ddoq_plugin.evaluation.batches import BatchPlan
from ddoq_plugin.evaluation.dsa import augment
from ddoq_plugin.evaluation.dsa_strategy import STRATEGY
from ddoq_plugin.evaluation.inputs import Inputs, Normaliser
from ddoq_plugin.evaluation.protocol import Augmentation, Mixing, load_protocol
from ddoq_plugin.evaluation.schedules import learning_rates
from ddoq_plugin.evaluation.students.build import build_student
from ddoq_plugin.evaluation.training import TrainingSet, train_student
from ddoq_plugin.seeding import derive_seed

SEED = 3
DATA = tiny_data()


def some_images(a_class: int = 2) -> TrainingSet:
    rows = torch.cat([DATA.train.class_indices(c)[:a_class] for c in range(3)])
    return TrainingSet(DATA.train.images(rows), DATA.train.labels[rows])


def published_loop(epochs: int, images: TrainingSet) -> torch.nn.Module:
    """Train as evaluate_synset of DatasetCondensation does: E + 1 epochs, a new optimiser after epoch E // 2 + 1."""
    model = build_student("mlp", 3, SIZE, seed=derive_seed("student", SEED))
    x, rate = Normaliser.measured(DATA.train)(images.images), 0.01

    def optimiser():
        return torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)

    stepping = optimiser()
    for epoch in range(epochs + 1):
        stepping.zero_grad()
        F.cross_entropy(model(x), images.labels).backward()
        stepping.step()
        if epoch == epochs // 2 + 1:
            rate *= 0.1
            stepping = optimiser()
    return model


def test_hard_dc_is_the_published_loop():
    images, how = some_images(), load_protocol("hard_dc")
    made = train_student(images, "mlp", how, DATA, seed=SEED)
    assert made.steps == 301
    own = torch.cat([one.detach().flatten() for one in made.model.parameters()])
    wanted = torch.cat([one.detach().flatten() for one in published_loop(300, images).parameters()])
    torch.testing.assert_close(own, wanted, atol=2e-5, rtol=1e-3)
    kept = how.model_copy(update={"schedule": how.schedule.model_copy(update={"restart": False})})
    other = train_student(images, "mlp", kept, DATA, seed=SEED).model
    other = torch.cat([one.detach().flatten() for one in other.parameters()])
    assert (other - wanted).abs().max() > 20 * (own - wanted).abs().max()


@pytest.mark.parametrize(("name", "epochs", "before"), [("hard_dc", 301, 152), ("hard_dsa", 1001, 502)])
@pytest.mark.parametrize("ipc", [1, 10, 50])
def test_the_step_comes_after_the_published_epoch(name, epochs, before, ipc):
    how = load_protocol(name)
    numbers = how.numbers("convnet3", 10 * ipc, 10)
    rates = learning_rates(how.schedule, numbers)
    an_epoch = {1: 1, 10: 1, 50: 2}[ipc]
    assert len(rates) == epochs * an_epoch
    assert rates == pytest.approx([0.01] * (before * an_epoch) + [0.001] * ((epochs - before) * an_epoch))


def test_a_batch_is_under_one_operation_with_numbers_of_its_own_images():
    images, normalise = some_images(), Normaliser.measured(DATA.train)
    augmentation = Augmentation(dsa=STRATEGY)
    plan = BatchPlan(len(images), 6, SIZE, SIZE, augmentation, Mixing(), seed=5)
    inputs = Inputs(images.images, normalise, augmentation, Mixing(), SIZE, 1.0, torch.device("cpu"))
    page = plan.page(1)
    batches = inputs.batches(page)
    seen = set()
    for step, drawn in enumerate(page.dsa):
        assert len(drawn.operation.unique()) == 1 and len(drawn) == 6
        plain = normalise(images.images[page.indices[step]])
        torch.testing.assert_close(batches.images(step), augment(plain, drawn), atol=1e-6, rtol=0)
        seen.add(int(drawn.operation[0]))
    assert len(seen) == 6 and not torch.equal(page.dsa[0].values[0], page.dsa[0].values[1])
    again = plan.page(1).dsa
    assert all(torch.equal(a.values, b.values) for a, b in zip(page.dsa, again, strict=True))


def test_dsa_changes_no_other_draw():
    plain, under = (
        BatchPlan(6, 4, SIZE, SIZE, Augmentation(crop="shift", padding=2, dsa=dsa), Mixing(name="cutmix"), seed=1).page(
            0
        )
        for dsa in ("", STRATEGY)
    )
    assert plain.dsa is None and torch.equal(plain.indices, under.indices)
    assert torch.equal(plain.crops.boxes, under.crops.boxes) and torch.equal(plain.mixes.lam, under.mixes.lam)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({**SOFT, "augmentation": {"dsa": "crop"}}, "'dsa' does not go with label_mode 'soft_stored'"),
        ({"augmentation": {"dsa": "crop_rotat"}}, "no operation 'rotat'; did you mean 'rotate'"),
        ({"schedule": {"name": "cosine", "restart": True}}, "'restart' is for schedule 'step'"),
    ],
)
def test_what_does_not_go_together_is_said(changes, message):
    with pytest.raises(ValidationError, match=message):
        protocol(**changes)


def test_sets_are_scored_from_their_own_rate_and_labels():
    for name, mode in (("hard_mtt", "hard"), ("soft_datm", "soft_fixed")):
        how = load_protocol(name)
        assert (how.learning_rate_from, how.label_mode, how.augmentation.dsa) == ("set", mode, STRATEGY)
    short = how.model_copy(update={"epochs": 3})
    images = some_images()
    targets = 4 * F.one_hot(images.labels, 3).float()
    made = TrainingSet(images.images, images.labels, targets=targets, learning_rate=0.02)
    assert train_student(made, "mlp", short, DATA, seed=SEED).steps == 3
