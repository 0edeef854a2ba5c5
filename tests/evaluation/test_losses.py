from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from ddoq_plugin.evaluation.losses import (
    Targets,
    batch_losses,
    cross_entropy,
    kl_to_teacher,
    mix_losses,
    mix_weights,
)
from ddoq_plugin.evaluation.protocol import Loss

HARD, SOFT = Loss(name="cross_entropy"), Loss(name="kl", temperature=4.0)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_equal_weights_are_the_plain_loss_bit_for_bit():
    outputs, targets, rows = random(37, 3), Targets(torch.arange(37) % 3, torch.ones(37)), torch.arange(37)
    plain = cross_entropy(outputs, targets.labels)
    assert torch.equal(batch_losses(outputs, targets, rows, None, 1.0, None, HARD), plain)
    other = mix_losses(plain, cross_entropy(outputs, targets.labels.flip(0)), 0.37)
    assert torch.equal(batch_losses(outputs, targets, rows, rows.flip(0), 0.37, None, HARD), other)
    own, partners = torch.full((37,), 0.83), torch.full((37,), 0.83)
    for lam in (0.0, 0.1, 0.37, 0.5, 0.81, 1.0):
        assert torch.equal(mix_weights(own, partners, lam), own)
        assert torch.equal(mix_weights(own[None], partners[None], torch.tensor([[lam]])), own[None])


def test_the_plain_loss_is_the_one_of_the_library():
    outputs, labels, teacher = random(9, 4), torch.arange(9) % 4, random(9, 4, seed=1)
    plain = cross_entropy(outputs, labels).sum() / 9
    torch.testing.assert_close(plain, F.cross_entropy(outputs, labels))
    for temperature in (1.0, 20.0):
        expected = F.kl_div(
            F.log_softmax(outputs / temperature, 1), F.softmax(teacher / temperature, 1), reduction="batchmean"
        )
        found = kl_to_teacher(outputs, teacher, temperature).sum() / 9
        torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-4)
        scaled = kl_to_teacher(outputs, teacher, temperature, scale=True).sum() / 9
        torch.testing.assert_close(scaled, found * temperature**2)


def test_weights_of_a_mix_lie_between_those_of_its_parts():
    own, partners = torch.tensor([2.0, 0.5, 1.0]), torch.tensor([1.0, 1.5, 1.0])
    torch.testing.assert_close(mix_weights(own, partners, 0.75), torch.tensor([1.75, 0.75, 1.0]))


def test_a_mix_of_class_labels_has_the_weighted_risk_of_both_images():
    # losses 1 and 3 of images that weigh 2 and 0.5: 0.3 * 2 * 1 + 0.7 * 0.5 * 3 = 1.65
    outputs = torch.log(torch.tensor([[math.exp(-1), math.exp(-3), 1 - math.exp(-1) - math.exp(-3)]]))
    targets = Targets(torch.tensor([0, 1]), torch.tensor([2.0, 0.5]))
    found = batch_losses(outputs, targets, torch.tensor([0]), torch.tensor([1]), 0.3, None, HARD)
    torch.testing.assert_close(found, torch.tensor([1.65]))


def test_hard_labels_of_a_mix_against_both_parts():
    outputs, labels = random(4, 3), torch.tensor([0, 1, 2, 0])
    rows, partners = torch.tensor([3, 2, 1, 0]), torch.tensor([0, 1, 2, 3])
    targets = Targets(labels, torch.ones(4))
    found = batch_losses(outputs, targets, rows, partners, 0.3, None, HARD)
    log = F.log_softmax(outputs, 1)
    expected = [-0.3 * log[i, labels[rows[i]]] - 0.7 * log[i, labels[partners[i]]] for i in range(4)]
    torch.testing.assert_close(found, torch.stack(expected))


def test_teacher_logits_of_the_mix_itself_need_no_partner():
    outputs, teacher = random(4, 3), random(4, 3, seed=2)
    targets, rows = Targets(torch.zeros(4, dtype=torch.int64), torch.ones(4)), torch.arange(4)
    mixed = batch_losses(outputs, targets, rows, rows.flip(0), 0.3, teacher, SOFT)
    assert torch.equal(mixed, batch_losses(outputs, targets, rows, None, 1.0, teacher, SOFT))
    assert torch.equal(mixed, kl_to_teacher(outputs, teacher, 4.0))


def test_fixed_logits_are_mixed_like_labels():
    outputs, logits = random(4, 3), random(4, 3, seed=3)
    targets, rows = Targets(torch.zeros(4, dtype=torch.int64), torch.ones(4), logits), torch.arange(4)
    found = batch_losses(outputs, targets, rows, rows.flip(0), 0.3, None, SOFT)
    own, other = kl_to_teacher(outputs, logits, 4.0), kl_to_teacher(outputs, logits.flip(0), 4.0)
    torch.testing.assert_close(found, 0.3 * own + 0.7 * other)


def test_a_student_equal_to_its_teacher_has_no_loss():
    teacher = random(6, 5)
    assert kl_to_teacher(teacher, teacher, 20.0).abs().max() == pytest.approx(0, abs=1e-6)
