"""Training on sets beyond plain uint8 images: floats in a space of their own, regression targets, rates, stages."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from evaluation_helpers import CLASSES, CROP, SIZE, SOFT, protocol, tiny_data

from ddoq_plugin import DistilledSet
from ddoq_plugin.errors import EvaluationError
from ddoq_plugin.evaluation.inputs import Normaliser
from ddoq_plugin.evaluation.protocol import Protocol
from ddoq_plugin.evaluation.soft_labels import make_bank
from ddoq_plugin.evaluation.students.build import build_student
from ddoq_plugin.evaluation.teacher import Teacher
from ddoq_plugin.evaluation.training import train_student
from ddoq_plugin.evaluation.training_set import TrainingSet
from ddoq_plugin.preprocessing import PIXELS, Preprocessing
from ddoq_plugin.seeding import derive_seed
from ddoq_plugin.store.artifacts import hash_tensors

DATA = tiny_data()
SPACES = {kind: Preprocessing.fit(kind, DATA.train) for kind in ("none", "standardised", "zca")}
SEED = 5


def real_set(kind: str = "none", per_class: int = 6, **changes) -> DistilledSet:
    """Return the first training images of each class, as floats in a space."""
    rows = torch.cat([DATA.train.class_indices(c)[:per_class] for c in range(len(CLASSES))])
    floats = SPACES[kind].apply(DATA.train.images(rows))
    labels = DATA.train.labels[rows]
    return DistilledSet(
        **{"images": None, "labels": labels, "class_names": CLASSES, "floats": floats, "preprocessing": SPACES[kind]}
        | changes
    )


def training_of(made: DistilledSet, how: Protocol) -> TrainingSet:
    return TrainingSet.from_set(made, how, SIZE)


def weights_hash(result) -> str:
    return hash_tensors(*result.model.state_dict().values())


def test_floats_are_trained_as_they_are():
    """Floats that stand for uint8 images train the same student; floats between the steps of uint8 train another."""
    how = protocol(steps=3, augmentation=CROP)
    made = real_set()
    plain = DistilledSet(made.images, made.labels, CLASSES)
    between = replace(made, floats=(made.floats + 0.3 / 255).clamp(0, 1), images=made.images)
    students = [train_student(training_of(one, how), "lenet", how, DATA, seed=SEED) for one in (plain, made, between)]
    first, second, third = (one.model.state_dict() for one in students)
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], atol=1e-5, rtol=1e-4)
    assert any(not torch.allclose(tensor, third[name], atol=1e-5) for name, tensor in first.items())


@pytest.mark.parametrize("kind", ["standardised", "zca"])
def test_test_images_are_brought_into_the_set_space(kind):
    """A student learns in the set's space and is scored there; scored on plain pixels it would guess."""
    how = protocol(steps=80, optimizer={"name": "adamw", "lr": 0.003}, batch_size=12)
    made = real_set(kind)
    result = train_student(training_of(made, how), "lenet", how, DATA, seed=SEED)
    assert result.top1 > 80
    with torch.no_grad():
        own = result.model(made.preprocessing.apply(DATA.test.images())).argmax(1)
    assert result.top1 == pytest.approx(100 * (own == DATA.test.labels).float().mean().item())


def test_one_step_towards_regression_targets():
    targets = torch.randn(18, 3, generator=torch.Generator().manual_seed(2))
    how = protocol(label_mode="soft_fixed", loss={"name": "mse"}, batch_size=18)
    made = real_set("zca", targets=targets, target_kind="regression")
    result = train_student(training_of(made, how), "mlp", how, DATA, seed=SEED)

    model = build_student("mlp", 3, SIZE, seed=derive_seed("student", SEED))
    loss = (0.5 * (model(made.floats) - targets).square().sum(1)).mean()
    loss.backward()
    for own, (name, tensor) in zip(model.parameters(), result.model.named_parameters(), strict=True):
        torch.testing.assert_close(own - 0.1 * own.grad, tensor, atol=1e-5, rtol=1e-4, msg=name)

    with pytest.raises(EvaluationError, match="needs logits"):
        kl = protocol(label_mode="soft_fixed", loss={"name": "kl"})
        train_student(training_of(made, kl), "mlp", kl, DATA, seed=SEED)


def test_the_learnt_rate_takes_the_place_of_the_protocol_rate():
    taking = protocol(learning_rate_from="set", steps=2)
    made = real_set(learning_rate=0.03)
    learnt = train_student(training_of(made, taking), "mlp", taking, DATA, seed=SEED)
    given = protocol(steps=2, optimizer={"name": "sgd", "lr": 0.03})
    same = train_student(training_of(made, given), "mlp", given, DATA, seed=SEED)
    assert weights_hash(learnt) == weights_hash(same)
    with pytest.raises(EvaluationError, match="learning rate from the set"):
        train_student(training_of(real_set(), taking), "mlp", taking, DATA, seed=SEED)


def test_stages_train_one_after_the_other():
    how = protocol(staged=True, steps=4)
    stages = torch.tensor([0, 0, 0, 1, 1, 1] * 3)
    made = real_set(stage=stages)
    parts = training_of(made, how).unions()
    assert [len(part) for part in parts] == [9, 18]
    result = train_student(training_of(made, how), "mlp", how, DATA, seed=SEED)
    plain = protocol(steps=4)
    assert result.steps == 4
    assert weights_hash(result) != weights_hash(train_student(training_of(made, plain), "mlp", plain, DATA, seed=SEED))
    # one stage is the plain training to the bit
    one = replace(made, stage=torch.zeros(18, dtype=torch.int64))
    assert weights_hash(train_student(training_of(one, how), "mlp", how, DATA, seed=SEED)) == weights_hash(
        train_student(training_of(one, plain), "mlp", plain, DATA, seed=SEED)
    )
    with pytest.raises(EvaluationError, match="no stages"):
        train_student(training_of(real_set(), how), "mlp", how, DATA, seed=SEED)


def test_mosaics_are_decoded_before_training():
    """Four training images of a class lie in one stored image: students see all four."""
    how = protocol()
    quarters = F.interpolate(DATA.train.images().float() / 255, size=(SIZE // 2, SIZE // 2), mode="area")
    stored = torch.stack([_two_by_two(quarters[12 * c : 12 * c + 4]) for c in range(3)])
    made = DistilledSet(None, torch.arange(3), CLASSES, floats=stored, mosaic=2)
    assert (made.ipc, len(made)) == (1, 3)
    seen = training_of(made, how)
    assert len(seen) == 12 and seen.images.shape[-1] == SIZE and seen.labels.tolist() == [0, 1, 2] * 4
    first = F.interpolate(quarters[:1], size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    torch.testing.assert_close(seen.images[:1], first)


def test_a_teacher_labels_images_of_another_space():
    """Stored labels of a preprocessed set are the teacher's answers to the same images in the teacher's own space."""
    how = protocol(**SOFT)
    normaliser = Normaliser.measured(DATA.train)
    teacher = Teacher(build_student("lenet", 3, SIZE, seed=7), "lenet", CLASSES, SIZE, normaliser, "for_tests")
    plain, whitened = training_of(real_set(), how), training_of(real_set("zca"), how)
    banks = [
        make_bank(one.images, teacher, how, steps=1, seed=SEED, preprocessing=one.preprocessing)
        for one in (plain, whitened)
    ]
    torch.testing.assert_close(banks[0].logits(0)[:1].float(), banks[1].logits(0)[:1].float(), atol=5e-3, rtol=5e-3)
    with pytest.raises(EvaluationError, match="another images"):
        train_student(whitened, "mlp", how, DATA, seed=SEED, bank=banks[0])


def test_a_whitened_set_cannot_be_resized():
    small = protocol(image_size=8)
    with pytest.raises(EvaluationError, match="ZCA-whitened at 16x16"):
        training_of(real_set("zca"), small)
    seen = training_of(real_set("standardised"), small)
    assert train_student(seen, "mlp", small, DATA, seed=SEED).steps == 1


def test_plain_sets_have_the_protocols_normalisation():
    how = protocol()
    seen = training_of(real_set(), how)
    assert seen.preprocessing is PIXELS or seen.preprocessing.kind == "none"
    assert seen.normaliser(how, DATA) == Normaliser.named(how.normalisation, DATA)


def _two_by_two(quarters: torch.Tensor) -> torch.Tensor:
    top, bottom = torch.cat([quarters[0], quarters[1]], dim=2), torch.cat([quarters[2], quarters[3]], dim=2)
    return torch.cat([top, bottom], dim=1)
