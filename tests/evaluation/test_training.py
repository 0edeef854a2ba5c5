from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from evaluation_helpers import CROP, ONLINE, SIZE, SOFT, protocol, tiny_data
from torch.nn import functional as F

from ddoq_plugin.data.base import ArraySplit
from ddoq_plugin.errors import EvaluationError, UnknownNameError
from ddoq_plugin.evaluation.augment import apply
from ddoq_plugin.evaluation.batches import BatchPlan
from ddoq_plugin.evaluation.inputs import Normaliser
from ddoq_plugin.evaluation.mixing import apply_mix
from ddoq_plugin.evaluation.optimisers import make_optimizer
from ddoq_plugin.evaluation.soft_labels import make_bank
from ddoq_plugin.evaluation.students.build import build_student
from ddoq_plugin.evaluation.teacher import Teacher
from ddoq_plugin.evaluation.training import TrainingSet, train_student
from ddoq_plugin.seeding import derive_seed
from ddoq_plugin.store.artifacts import hash_tensors

SEED, RATE = 3, 0.1
MIXES = {"none": {}, "cutmix": {"mixing": {"name": "cutmix"}}, "mixup": {"mixing": {"name": "mixup"}}}


@pytest.fixture(scope="module")
def data():
    return tiny_data()


@pytest.fixture(scope="module")
def training_set(data):
    """Two images a class with weights of mean 1 per class that all differ."""
    rows = torch.cat([data.train.class_indices(c)[:2] for c in range(3)])
    weights = torch.tensor([1.5, 0.5, 1.8, 0.2, 0.9, 1.1])
    return TrainingSet(data.train.images(rows), data.train.labels[rows], weights)


@pytest.fixture(scope="module")
def teacher(data):
    model = build_student("lenet", 3, SIZE, seed=8)
    return Teacher(model, "lenet", data.class_names, SIZE, Normaliser.measured(data.train), "untrained")


def weights_after(result) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in result.model.parameters()])


def step_by_hand(made, training_set, data, teacher, page, logits=None) -> torch.Tensor:
    """Return the parameters after one plain SGD step, computed image by image."""
    normalise = Normaliser.measured(data.train)
    rows = page.indices[0]
    images = normalise(training_set.images[rows])
    if made.augmentation.crop != "none":
        images = apply(images, page.crops[0])
    lam, partners = 1.0, torch.arange(len(rows))
    if page.mixes is not None:
        lam, partners = page.mixes.lam[0].item(), page.mixes.partners[0]
        images = apply_mix(images, partners, lam, page.mixes.boxes[0].tolist(), made.mixing.name)
    model = build_student("lenet", 3, SIZE, seed=derive_seed("student", SEED))
    temperature = made.loss.temperature
    if teacher is not None and logits is None:
        logits = teacher.model(images)
    total = torch.zeros(())
    for i, output in enumerate(model(images)):
        row, partner = rows[i], rows[partners[i]]
        own, other = training_set.weights[row], training_set.weights[partner]
        if logits is not None:
            target = F.softmax(logits[i].float() / temperature, 0)
            loss = (target * (target.log() - F.log_softmax(output / temperature, 0))).sum()
            total = total + (lam * own + (1 - lam) * other) * loss
        else:
            log = F.log_softmax(output, 0)
            first, second = log[training_set.labels[row]], log[training_set.labels[partner]]
            total = total - lam * own * first - (1 - lam) * other * second
    (total / len(rows)).backward()
    return torch.cat([(p - RATE * p.grad).detach().flatten() for p in model.parameters()])


def plan_of(made, training_set) -> BatchPlan:
    seed = derive_seed("batches", SEED)
    return BatchPlan(len(training_set), 6, SIZE, SIZE, made.augmentation, made.mixing, seed)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("labels", ["hard", "online", "stored"])
def test_one_step_is_the_hand_computed_weighted_step(data, training_set, teacher, mix, labels):
    mode = {"hard": {}, "online": ONLINE, "stored": SOFT}[labels]
    made = protocol(augmentation=CROP, **mode, **MIXES[mix])
    used, bank, logits = None, None, None
    page = plan_of(made, training_set).page(0)
    if labels == "online":
        used = teacher
    elif labels == "stored":
        bank = make_bank(training_set.images, teacher, made, steps=1, seed=1)
        page, logits = bank.page(0), bank.logits(0)[0]
    result = train_student(training_set, "lenet", made, data, seed=SEED, teacher=used, bank=bank, split="val")
    expected = step_by_hand(made, training_set, data, used, page, logits)
    torch.testing.assert_close(weights_after(result), expected, atol=1e-6, rtol=1e-4)
    plain = train_student(
        replace(training_set, weights=None), "lenet", made, data, seed=SEED, teacher=used, bank=bank, split="val"
    )
    assert not torch.allclose(weights_after(plain), expected, atol=1e-7)  # the weights did something


def test_equal_weights_train_exactly_like_no_weights(data, training_set):
    made = protocol(steps=5, augmentation=CROP, **MIXES["cutmix"])
    plain, ones = (
        train_student(replace(training_set, weights=weights), "lenet", made, data, seed=SEED, split="val")
        for weights in (None, torch.ones(6))
    )
    assert torch.equal(weights_after(plain), weights_after(ones))


def test_an_image_of_weight_zero_has_no_influence(data, training_set):
    made = protocol(steps=4)
    weights = torch.tensor([2.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    other = training_set.images.clone()
    other[1] = 255 - other[1]
    first, second = (
        train_student(TrainingSet(images, training_set.labels, weights), "lenet", made, data, seed=SEED, split="val")
        for images in (training_set.images, other)
    )
    torch.testing.assert_close(weights_after(first), weights_after(second), atol=1e-6, rtol=1e-5)


def test_accumulated_parts_make_the_same_step(data, training_set):
    whole, parts = (
        train_student(training_set, "lenet", protocol(accumulation=n, augmentation=CROP), data, seed=SEED, split="val")
        for n in (1, 4)
    )
    torch.testing.assert_close(weights_after(whole), weights_after(parts), atol=1e-6, rtol=1e-5)


def test_fixed_logits_are_learnt(data, training_set):
    logits = 8.0 * F.one_hot(training_set.labels.roll(2), 3)  # every class called by another's name
    made = protocol(steps=60, label_mode="soft_fixed", loss={"name": "kl"}, optimizer={"name": "adamw", "lr": 0.01})
    result = train_student(replace(training_set, targets=logits), "mlp", made, data, seed=SEED, split="val")
    assert result.top1 < 25  # chance is 33, the true labels give over 80
    with pytest.raises(EvaluationError, match="logits"):
        train_student(training_set, "mlp", made, data, seed=SEED)


def test_a_student_learns_and_its_result_is_complete(data):
    made = protocol(steps=80, optimizer={"name": "adamw", "lr": 0.005, "weight_decay": 0.01}, batch_size=12)
    result = train_student(TrainingSet.from_split(data.train), "convnet3_bn_w32", made, data, seed=0)
    assert result.top1 > 80 and result.top5 == 100
    assert result.steps == 80 and result.seconds > 0 and result.train_images_per_second > 0
    assert not result.model.training
    predictions = result.model(Normaliser.measured(data.train)(data.test.images())).argmax(1)
    assert result.top1 == pytest.approx(100 * (predictions == data.test.labels).float().mean().item())


def test_the_split_is_the_one_that_was_asked_for(data, training_set):
    wrong = ArraySplit(data.test.images(), (data.test.labels + 1) % 3)
    made = protocol(steps=40, optimizer={"name": "adamw", "lr": 0.005})
    scores = {
        split: train_student(training_set, "mlp", made, replace(data, test=wrong), seed=0, split=split).top1
        for split in ("val", "test")
    }
    assert scores["val"] > 60 > 40 > scores["test"]


def test_global_random_state_and_results_do_not_touch_each_other(data, training_set):
    made = protocol(steps=3, augmentation=CROP)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = train_student(training_set, "efficientnet_b0", made, data, seed=SEED)  # it has dropout
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = train_student(training_set, "efficientnet_b0", made, data, seed=SEED)
    assert torch.equal(weights_after(first), weights_after(again))
    other = train_student(training_set, "efficientnet_b0", made, data, seed=SEED + 1)
    assert not torch.equal(weights_after(first), weights_after(other))


REMOTE = """
import sys; sys.path.insert(0, {folder!r})
import torch; torch.set_num_threads(1)
from test_training import fingerprint_of_a_run
print(fingerprint_of_a_run())
"""


def fingerprint_of_a_run() -> str:
    made = protocol(steps=12, augmentation=CROP, **SOFT, **MIXES["cutmix"])
    data = tiny_data()
    model = build_student("convnet3_w32", 3, SIZE, seed=8)
    teacher = Teacher(model, "convnet3_w32", data.class_names, SIZE, Normaliser.measured(data.train), "untrained")
    bank = make_bank(data.train.images(), teacher, made, steps=12, seed=1)
    result = train_student(TrainingSet.from_split(data.train), "convnet3_w32", made, data, seed=SEED, bank=bank)
    return hash_tensors(weights_after(result))


def test_the_same_seed_gives_the_same_bits_here_and_in_a_new_process():
    here = fingerprint_of_a_run()
    assert here == fingerprint_of_a_run()
    code = REMOTE.format(folder=str(Path(__file__).parent))
    there = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    assert there == here


def test_denormals_are_as_before(data, training_set):
    for flushed in (False, True):
        torch.set_flush_denormal(flushed)
        train_student(training_set, "mlp", protocol(), data, seed=0, split="val")
        assert bool((torch.tensor(1e-39) * 1.0) == 0) is flushed
    torch.set_flush_denormal(False)


def test_divergence_is_one_clear_error(data, training_set):
    made = protocol(steps=40, optimizer={"name": "sgd", "lr": 1e6})
    with pytest.raises(EvaluationError, match="diverged.*lower its learning rate"):
        train_student(training_set, "mlp", made, data, seed=0)


def test_what_is_missing_is_said_before_training(data, training_set, teacher):
    soft, online = protocol(**SOFT), protocol(**ONLINE)
    bank = make_bank(training_set.images, teacher, soft, steps=1, seed=1)
    with pytest.raises(EvaluationError, match="needs a soft-label bank"):
        train_student(training_set, "mlp", soft, data, seed=0)
    with pytest.raises(EvaluationError, match="takes no soft-label bank"):
        train_student(training_set, "mlp", protocol(), data, seed=0, bank=bank)
    with pytest.raises(EvaluationError, match="needs a teacher"):
        train_student(training_set, "mlp", online, data, seed=0)
    with pytest.raises(EvaluationError, match="steps"):
        train_student(training_set, "mlp", protocol(**SOFT, steps=500), data, seed=0, bank=bank)
    with pytest.raises(EvaluationError, match="another images"):
        changed = replace(training_set, images=255 - training_set.images)
        train_student(changed, "mlp", soft, data, seed=0, bank=bank)
    with pytest.raises(EvaluationError, match="another augmentation"):
        train_student(training_set, "mlp", protocol(**SOFT, augmentation=CROP), data, seed=0, bank=bank)
    with pytest.raises(EvaluationError, match="outside the 3 classes"):
        train_student(replace(training_set, labels=training_set.labels + 1), "mlp", protocol(), data, seed=0)
    with pytest.raises(UnknownNameError, match="mlp"):
        train_student(training_set, "mpl", protocol(), data, seed=0)


@pytest.mark.parametrize(
    "parts",
    [
        {"images": torch.zeros(2, 3, 8, 8, dtype=torch.float64)},
        {"labels": torch.zeros(3, dtype=torch.int64)},
        {"weights": torch.tensor([1.0, -1.0])},
        {"weights": torch.tensor([1.0, math.nan])},
    ],
)
def test_sets_that_do_not_fit_are_refused(parts):
    fitting = {"images": torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "labels": torch.zeros(2, dtype=torch.int64)}
    with pytest.raises(EvaluationError):
        TrainingSet(**(fitting | parts))


def test_biases_and_norms_are_exempt_from_decay_where_the_protocol_says_so():
    model = build_student("convnet3_bn_w32", 3, SIZE, seed=0)
    exempt = protocol(optimizer={"name": "adamw", "lr": 0.1, "weight_decay": 0.3, "decay_biases_and_norms": False})
    optimizer = make_optimizer(model, exempt.optimizer, exempt.numbers("x", 6, 3))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert all(decay[id(p)] == (0.3 if p.ndim > 1 else 0.0) for p in model.parameters())
    everything = exempt.optimizer.model_copy(update={"decay_biases_and_norms": True})
    groups = make_optimizer(model, everything, exempt.numbers("x", 6, 3)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.3]


def test_bfloat16_and_contiguous_maps_stay_close_to_float32(data, training_set):
    plain = train_student(training_set, "convnet3_bn_w32", protocol(), data, seed=0, split="val")
    other = protocol(execution={"precision": "bfloat16", "memory_format": "contiguous"})
    changed = train_student(training_set, "convnet3_bn_w32", other, data, seed=0, split="val")
    difference = (weights_after(plain) - weights_after(changed)).abs().max()
    assert 0 < difference < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("student", ["mlp", "convnet3_w32", "resnet10_w16", "vit2_w64"])
def test_the_short_protocol_trains_to_convergence(student):
    from ddoq_plugin.data import load_data
    from ddoq_plugin.evaluation import bank_steps, load_protocol, make_bank, train_teacher

    digits = load_data("digits", val_fraction=0.25)  # the usual validation split is too small to see one point
    teacher = train_teacher(digits, "convnet3_bn_w32", load_protocol("teacher_short"), 0, progress=False)
    full, made, found = TrainingSet.from_split(digits.train), load_protocol("soft_stored_short"), []
    for form in (made, made.lengthened(2)):
        steps, scores = bank_steps(form, [student], len(full), digits.num_classes), []
        for seed in range(3):
            bank = make_bank(full.images, teacher, form, steps=steps, seed=seed)
            scores.append(train_student(full, student, form, digits, seed=seed, bank=bank, split="val").top1)
        found.append(sum(scores) / 3)
    accuracy, at_twice = found
    assert at_twice - accuracy <= 1 and accuracy >= 96  # points of top-1
