"""From a distilled set to a gradient step: what is scored is what was distilled, and its weights count."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from ddoq_plugin import DistillContext, DistilledSet, load_data, load_prior
from ddoq_plugin.ddoq import DDOQ
from ddoq_plugin.evaluation import build_student, train_student
from ddoq_plugin.evaluation.batches import BatchPlan
from ddoq_plugin.evaluation.evaluator import Evaluator
from ddoq_plugin.evaluation.inputs import Normaliser
from ddoq_plugin.evaluation.protocol import Protocol
from ddoq_plugin.seeding import derive_seed
from ddoq_plugin.store.artifacts import Store

IPC, RATE, SEED = 6, 0.1, 3


@pytest.fixture(scope="module")
def data():
    return load_data("digits", limit_per_class=30)


def protocol():
    return Protocol.model_validate(
        {
            "name": "one_step",
            "source": "made for this test",
            "label_mode": "hard",
            "loss": {"name": "cross_entropy"},
            "optimizer": {"name": "sgd", "lr": RATE},
            "schedule": {"name": "constant"},
            "steps": 1,
            "batch_size": 10 * IPC,
            "mixing": {"name": "cutmix", "probability": 1.0},
            "normalisation": "none",
        }
    )


def step_by_hand(images, labels, weights, data):
    """One SGD step on sum_i (lam w_i CE_i + (1 - lam) w_j CE_j) / B, written out."""
    settings = protocol()
    plan = BatchPlan(
        num_images=len(labels),
        batch_size=len(labels),
        source_size=data.image_size,
        image_size=data.image_size,
        augmentation=settings.augmentation,
        mixing=settings.mixing,
        seed=derive_seed("batches", SEED),
    ).page(0)
    order, partner, lam = plan.indices[0], plan.mixes.partners[0], float(plan.mixes.lam[0])
    x0, y0, x1, y1 = plan.mixes.boxes[0].tolist()
    batch, own, mass = images[order].float() / 255, labels[order], weights[order]
    mixed = batch.clone()
    mixed[:, :, y0:y1, x0:x1] = batch[partner][:, :, y0:y1, x0:x1]
    assert 0 < lam < 1, "the draw must mix for this test to say something"
    model = build_student("mlp", 10, data.image_size, seed=derive_seed("student", SEED))
    outputs = model(Normaliser()(mixed))
    total = torch.zeros(())
    for i in range(len(own)):
        first = F.cross_entropy(outputs[i], own[i])
        second = F.cross_entropy(outputs[i], own[partner[i]])
        total = total + lam * mass[i] * first + (1 - lam) * mass[partner[i]] * second
    gradients = torch.autograd.grad(total / len(own), list(model.parameters()))
    return [p.detach() - RATE * g for p, g in zip(model.parameters(), gradients, strict=True)]


@pytest.mark.parametrize("clusters", [2, IPC, 12])
def test_a_step_on_a_distilled_set_is_the_step_by_hand(data, clusters, tmp_path):
    context = DistillContext(data, load_prior("pixel", image_size=data.image_size))
    made = DDOQ(weighting="counts", strength=0.0).distill(context, IPC, clusters=clusters)
    assert float(made.weights.std()) > 0.1, "the weights must differ for this test to say something"
    folder = made.save(tmp_path / "set")
    training = Evaluator(data, protocol(), Store(tmp_path / "store"), students=["mlp"])._training_set(
        DistilledSet.load(folder, data.class_names)
    )
    rows = pd.read_parquet(folder / "train" / "metadata.parquet")
    pictures = [np.array(Image.open(folder / "train" / name)) for name in rows["file_name"]]
    seen = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    assert torch.equal(training.images, seen), "PNG and what is scored differ"
    assert torch.equal(made.images, seen), "PNG and what was distilled differ"
    assert training.labels.tolist() == rows["label"].tolist()
    weights = torch.tensor(rows["weight"].to_numpy(), dtype=torch.float32)
    trained = train_student(training, "mlp", protocol(), data, seed=SEED).model
    expected = step_by_hand(seen, training.labels, weights, data)
    for ours, hand in zip(trained.parameters(), expected, strict=True):
        assert torch.allclose(ours, hand, atol=1e-6)
    unweighted = step_by_hand(seen, training.labels, torch.ones(len(seen)), data)
    assert not all(torch.allclose(o, u, atol=1e-6) for o, u in zip(trained.parameters(), unweighted, strict=True))


@pytest.mark.parametrize("clusters", [2, 4, IPC, 12])
def test_weightings_share_their_images_whatever_the_number_of_clusters(data, clusters):
    context = DistillContext(data, load_prior("pixel", image_size=data.image_size))
    made = {w: DDOQ(weighting=w, strength=0.0).distill(context, IPC, clusters=clusters) for w in ("uniform", "counts")}
    assert made["uniform"].image_hash == made["counts"].image_hash
    assert made["uniform"].weights.tolist() == [1.0] * 60
