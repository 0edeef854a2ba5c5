from __future__ import annotations

import pytest
import torch
from evaluation_helpers import CROP, SIZE, SOFT, protocol, tiny_data
from pydantic import ValidationError

from ddoq_plugin.errors import EvaluationError
from ddoq_plugin.evaluation.inputs import Normaliser
from ddoq_plugin.evaluation.pruning import prune, restore
from ddoq_plugin.evaluation.soft_labels import SoftLabelBank, bank_key, make_bank
from ddoq_plugin.evaluation.students.build import build_student
from ddoq_plugin.evaluation.teacher import Teacher
from ddoq_plugin.evaluation.training import TrainingSet, train_student

CLASSES, TEMPERATURE = 12, 4.0


def logits() -> torch.Tensor:
    return torch.randn(5, 7, CLASSES, generator=torch.Generator().manual_seed(1)) * 6


def restored(k: int) -> torch.Tensor:
    return restore(**prune(logits(), k, TEMPERATURE), num_classes=CLASSES)


@pytest.mark.parametrize("k", [CLASSES, CLASSES + 3])
def test_with_every_class_kept_nothing_changes(k):
    assert torch.equal(restored(k), logits().half())


@pytest.mark.parametrize("k", [1, 4, CLASSES - 1])
def test_the_kept_keep_their_probability_and_the_others_share_theirs(k):
    whole, cut = (torch.softmax(z.double() / TEMPERATURE, -1) for z in (logits(), restored(k)))
    kept = logits().topk(k).indices
    torch.testing.assert_close(cut.gather(-1, kept), whole.gather(-1, kept), atol=2e-3, rtol=2e-3)
    others = torch.ones_like(whole, dtype=torch.bool).scatter(-1, kept, False)
    shares = cut[others].view(5, 7, -1)
    assert torch.equal(shares, shares[..., :1].expand_as(shares))
    mass = 1 - whole.gather(-1, kept).sum(-1)
    torch.testing.assert_close(shares.sum(-1), mass, atol=2e-3, rtol=2e-2)
    assert ((cut - whole).abs().sum(-1) / 2 <= mass + 2e-3).all()


@pytest.fixture(scope="module")
def data():
    return tiny_data()


@pytest.fixture(scope="module")
def teacher(data):
    model = build_student("convnet3_bn_w32", 3, SIZE, seed=0)
    return Teacher(model, "convnet3_bn_w32", data.class_names, SIZE, Normaliser.measured(data.train), "untrained")


def stored(**changes):
    return protocol(**(SOFT | {"augmentation": CROP, "steps": 5} | changes))


def test_a_pruned_bank_is_smaller_and_trains(tmp_path, data, teacher):
    images = data.train.images()
    whole = make_bank(images, teacher, stored(), steps=5, seed=1)
    pruned = make_bank(images, teacher, stored(stored_top_k=1), steps=5, seed=1, folder=tmp_path)
    again = SoftLabelBank.load(tmp_path)
    assert pruned.shards[0]["logits"].shape[-1] == 1 and again.logits(0).shape == whole.logits(0).shape
    assert torch.equal(again.logits(0), pruned.logits(0)) and again.logits(0).dtype == torch.float16
    assert torch.equal(again.logits(0).argmax(-1), whole.logits(0).argmax(-1))
    everything = make_bank(images, teacher, stored(stored_top_k=3), steps=5, seed=1)
    assert torch.equal(everything.logits(0), whole.logits(0))
    train = TrainingSet.from_split(data.train)
    results = [
        train_student(train, "mlp", made, data, seed=0, bank=bank, split="val").model
        for made, bank in ((stored(), whole), (stored(stored_top_k=3), everything), (stored(stored_top_k=1), again))
    ]
    weights = [torch.cat([p.detach().flatten() for p in model.parameters()]) for model in results]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_a_bank_of_another_pruning_or_temperature_is_refused(data, teacher):
    train = TrainingSet.from_split(data.train)
    bank = make_bank(train.images, teacher, stored(stored_top_k=2), steps=5, seed=1)
    for other in (stored(), stored(stored_top_k=2, loss={"name": "kl", "temperature": 9.0})):
        with pytest.raises(EvaluationError, match="another pruning"):
            train_student(train, "mlp", other, data, seed=0, bank=bank)
    keys = [
        bank_key("a", "t", made, num_images=9, num_classes=3, steps=5, seed=1)
        for made in (stored(), stored(stored_top_k=2), stored(stored_top_k=1))
    ]
    assert keys[0] != keys[1] != keys[2]


def test_only_stored_labels_are_pruned():
    with pytest.raises(ValidationError, match="soft_stored"):
        protocol(stored_top_k=2)
