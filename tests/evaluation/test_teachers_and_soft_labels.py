from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from evaluation_helpers import CLASSES, CROP, SIZE, SOFT, protocol, tiny_data

from ddoq_plugin.errors import EvaluationError
from ddoq_plugin.evaluation import load_protocol
from ddoq_plugin.evaluation.augment import apply
from ddoq_plugin.evaluation.batches import PAGE_STEPS
from ddoq_plugin.evaluation.inputs import Normaliser
from ddoq_plugin.evaluation.mixing import apply_mix
from ddoq_plugin.evaluation.soft_labels import SoftLabelBank, bank_key, bank_steps, make_bank, whole_pages
from ddoq_plugin.evaluation.students.build import build_student
from ddoq_plugin.evaluation.teacher import Teacher
from ddoq_plugin.evaluation.teachers import pretrained_teacher, train_teacher
from ddoq_plugin.evaluation.training import TrainingSet, train_student

TEACHING = protocol(steps=60, optimizer={"name": "adamw", "lr": 0.005}, batch_size=12)
STORED = protocol(**SOFT, augmentation=CROP, mixing={"name": "cutmix", "probability": 0.7}, steps=5)


@pytest.fixture(scope="module")
def data():
    return tiny_data()


@pytest.fixture(scope="module")
def teacher(data):
    return train_teacher(data, "convnet3_bn_w32", TEACHING, 0, progress=False)


@pytest.fixture(scope="module")
def images(data):
    return data.train.images(torch.arange(0, 36, 4))


@pytest.fixture(scope="module")
def bank(images, teacher):
    return make_bank(images, teacher, STORED, steps=40, seed=1)


def test_a_teacher_states_its_accuracy_and_its_classes(data, teacher):
    right = (teacher.logits(data.test.images()).argmax(1) == data.test.labels).float().mean().item()
    assert teacher.test_accuracy == pytest.approx(100 * right)
    assert teacher.val_accuracy > 60 and teacher.class_names == CLASSES
    assert not teacher.model.training and not any(p.requires_grad for p in teacher.model.parameters())


def test_a_saved_teacher_is_the_same_teacher(tmp_path, data, teacher):
    loaded = Teacher.load(teacher.save(tmp_path / "teacher"))
    assert loaded.fingerprint == teacher.fingerprint
    assert (loaded.val_accuracy, loaded.test_accuracy) == (teacher.val_accuracy, teacher.test_accuracy)
    assert torch.equal(loaded.logits(data.test.images()), teacher.logits(data.test.images()))
    card = json.loads((tmp_path / "teacher" / "teacher.json").read_text())
    assert card["class_names"] == list(CLASSES) and card["protocol"] == "for_tests"
    with pytest.raises(EvaluationError, match="no readable teacher"):
        Teacher.load(tmp_path)


def test_the_fingerprint_follows_weights_and_class_order(data, teacher):
    assert replace(teacher, class_names=CLASSES[::-1]).fingerprint != teacher.fingerprint
    other = build_student("convnet3_bn_w32", 3, SIZE, seed=1)
    assert replace(teacher, model=other).fingerprint != teacher.fingerprint


def test_logits_do_not_depend_on_batch_size_dtype_or_a_pending_resize(data, teacher):
    images = data.test.images()
    whole = teacher.logits(images)
    torch.testing.assert_close(teacher.logits(images, batch_size=5), whole, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(teacher.logits(images.float() / 255), whole)
    assert teacher.logits(tiny_data(32).test.images()).shape == (18, 3)
    shifted = Normaliser((0.5,) * 3, (0.25,) * 3)
    torch.testing.assert_close(teacher.label(shifted(images), shifted), whole, atol=1e-4, rtol=1e-3)


def test_another_class_order_is_an_error(data, teacher):
    teacher.check_classes(CLASSES)
    with pytest.raises(EvaluationError, match="another order.*'circle'"):
        teacher.check_classes(CLASSES[::-1])
    with pytest.raises(EvaluationError, match="other classes.*'hexagon'"):
        teacher.check_classes(("circle", "square", "hexagon"))
    turned = replace(data, class_names=CLASSES[::-1])
    online = protocol(label_mode="soft_online", loss={"name": "kl"})
    with pytest.raises(EvaluationError, match="another order"):
        train_student(TrainingSet.from_split(data.train), "mlp", online, turned, seed=0, teacher=teacher)


def test_a_teacher_learns_from_class_labels_only(data):
    with pytest.raises(EvaluationError, match="class labels"):
        train_teacher(data, "mlp", STORED, 0)


def test_weights_from_a_file_make_a_teacher(tmp_path, data, teacher):
    torch.save(teacher.model.state_dict(), tmp_path / "weights.pt")
    measured = {"normalisation": "dataset"}
    read = pretrained_teacher("convnet3_bn_w32", tmp_path / "weights.pt", data, **measured)
    assert read.test_accuracy == teacher.test_accuracy
    with pytest.raises(EvaluationError, match="do not fit"):
        pretrained_teacher("mlp", tmp_path / "weights.pt", data, **measured)


def test_a_stored_crop_and_mix_replayed_through_the_teacher_gives_the_stored_logits(images, teacher, bank):
    mixed = 0
    for number in range(2):
        page = bank.page(number)
        for step in (0, 7, PAGE_STEPS - 1):
            batch = apply(teacher.normaliser(images[page.indices[step]]), page.crops[step])
            lam = page.mixes.lam[step].item()
            if lam < 1:
                mixed += 1
                batch = apply_mix(batch, page.mixes.partners[step], lam, page.mixes.boxes[step].tolist(), "cutmix")
            logits = teacher.label(batch, teacher.normaliser)
            torch.testing.assert_close(bank.logits(number)[step].float(), logits, atol=2e-3, rtol=2e-3)
    assert mixed


def test_a_shorter_bank_is_the_first_part_of_a_longer_one(images, teacher, bank):
    short = make_bank(images, teacher, STORED, steps=3, seed=1)
    assert short.steps == PAGE_STEPS and bank.steps == 2 * PAGE_STEPS == whole_pages(40)
    assert torch.equal(short.logits(0), bank.logits(0))
    assert torch.equal(short.page(0).crops.boxes, bank.page(0).crops.boxes)
    results = [
        train_student(
            TrainingSet(images, torch.arange(9) // 3), "mlp", STORED, tiny_data(), seed=0, bank=used, split="val"
        )
        for used in (short, bank)
    ]
    for one, other in zip(*(result.model.parameters() for result in results), strict=True):
        assert torch.equal(one, other)


def test_the_seed_alone_makes_the_stream(images, teacher, bank):
    assert torch.equal(make_bank(images, teacher, STORED, steps=1, seed=1).page(0).indices, bank.page(0).indices)
    assert not torch.equal(make_bank(images, teacher, STORED, steps=1, seed=2).page(0).indices, bank.page(0).indices)


def test_a_saved_bank_is_the_same_bank(tmp_path, images, teacher, bank, monkeypatch):
    def same(one: SoftLabelBank, other: SoftLabelBank) -> bool:
        pages = zip(one.page(1).crops.boxes, other.page(1).crops.boxes, strict=True)
        return torch.equal(one.logits(1), other.logits(1)) and all(torch.equal(a, b) for a, b in pages)

    loaded = SoftLabelBank.load(bank.save(tmp_path / "whole"))
    assert same(loaded, bank) and loaded.steps == bank.steps and loaded.logits(0).dtype == torch.float16
    monkeypatch.setattr("ddoq_plugin.evaluation.soft_labels.SHARD_BYTES", 1)
    sharded = make_bank(images, teacher, STORED, steps=40, seed=1, folder=tmp_path / "shards")
    assert len(sharded.shards) == 2 and same(sharded, bank)
    with pytest.raises(EvaluationError, match="no readable soft-label bank"):
        SoftLabelBank.load(tmp_path)


def test_the_key_follows_what_the_bank_depends_on_and_nothing_else():
    def key(made=STORED, image_hash="a", teacher="t", seed=1, steps=5) -> dict:
        return bank_key(image_hash, teacher, made, num_images=9, num_classes=3, steps=steps, seed=seed)

    assert key() == key(steps=9)  # the same whole pages
    assert key() == key(STORED.model_copy(update={"name": "x", "source": "y", "students": {}}))
    changed = [key(image_hash="b"), key(teacher="u"), key(seed=2), key(steps=40), key(protocol(**SOFT))]
    assert all(other != key() for other in changed)


def test_a_bank_is_as_long_as_its_longest_student():
    made = protocol(**SOFT, steps=5, students={"vit*": {"steps": 9}})
    assert bank_steps(made, ["mlp", "vit2_w64"], 9, 3) == 9 and bank_steps(made, ["mlp"], 9, 3) == 5


def test_only_a_protocol_that_stores_soft_labels_makes_a_bank(images, teacher):
    with pytest.raises(EvaluationError, match="stores no soft labels"):
        make_bank(images, teacher, protocol(), steps=1, seed=0)


def test_logits_that_are_not_finite_are_refused(images, teacher):
    model = build_student("convnet3_bn_w32", 3, SIZE, seed=0)
    model.classifier.bias.data.fill_(1e6)  # overflows float16
    with pytest.raises(EvaluationError, match="not finite"):
        make_bank(images, replace(teacher, model=model), STORED, steps=1, seed=0)


def test_short_protocols_share_one_augmentation_so_that_modes_compare():
    stored, online, hard = (load_protocol(f"{mode}_short") for mode in ("soft_stored", "soft_online", "hard"))
    for other in (online, hard):
        assert (other.augmentation, other.mixing, other.optimizer, other.batch_size) == (
            stored.augmentation, stored.mixing, stored.optimizer, stored.batch_size)  # fmt: skip
