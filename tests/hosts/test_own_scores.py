from __future__ import annotations

import dataclasses

import pytest
import torch
from host_helpers import first_images, tiny_data, tiny_settings

from ddoq_plugin.errors import EvaluationError
from ddoq_plugin.evaluation.protocol import load_protocol
from ddoq_plugin.hosts import own_evaluator
from ddoq_plugin.hosts.own_evaluator import own_scores, random_reference, role_protocols
from ddoq_plugin.report.robust_scores import augmentation_robust_score, label_robust_score


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    data, settings = tiny_data(), tiny_settings(folder)

    def run(sets, **changes):
        fields = [name for name in changes if name in type(settings).model_fields]
        chosen = settings.model_copy(update={name: changes.pop(name) for name in fields})
        call = {"student": "mlp", "settings": chosen, "work_folder": folder, "progress": False, **changes}
        return own_scores(sets, data, **call)

    return data, run


def test_scores_follow_from_the_accuracies_of_the_row(bench):
    data, run = bench
    row = run([first_images(data)]).iloc[0]
    share = {name: row[name] / 100 for name in ("full_hard", "set_hard", "set_soft", "random_soft")}
    assert row["lrs"] == pytest.approx(label_robust_score(**share))
    share = {name: row[name] / 100 for name in ("set_augmented", "random_augmented", "set_plain", "random_plain")}
    assert row["ars"] == pytest.approx(augmentation_robust_score(**share))
    assert row["set_augmented"] == row["set_soft"]
    assert (row["label"], row["weights"], row["ipc"], row["evaluator"]) == ("first", "equal", 3, "ddoq_plugin")


def test_the_same_seed_gives_the_same_row_and_repetitions_differ(bench):
    data, run = bench
    accuracies = ["set_hard", "set_soft", "random_soft", "set_plain", "random_plain"]
    made = {"a": first_images(data, ipc=1)}
    first, again = run(made, evaluations=2), run(made, evaluations=2)
    assert first[accuracies].equals(again[accuracies])
    first_images_drawn, second = (random_reference(data, 2, seed).images for seed in (0, 1))
    assert not torch.equal(first_images_drawn, second)


def test_the_learning_rate_is_chosen_on_validation(bench, monkeypatch):
    data, run = bench
    trained, splits = own_evaluator.train_student, []

    def watched(*arguments, **options):
        splits.append(options["split"])
        return trained(*arguments, **options)

    monkeypatch.setattr(own_evaluator, "train_student", watched)
    # at a rate of 1e-9 a student stays where it began
    row = run([first_images(data)], learning_rates=(1e-9, 0.01), metrics=["lrs"]).iloc[0]
    assert set(splits) == {"val"}
    assert row["lr_set_soft"] == row["lr_random_soft"] == 0.01


def test_a_weighted_set_gets_a_row_with_and_one_without_its_weights(bench, monkeypatch):
    data, run = bench
    given = []
    trained = own_evaluator.train_student

    def watched(training, *arguments, **options):
        given.append(training.weights)
        return trained(training, *arguments, **options)

    monkeypatch.setattr(own_evaluator, "train_student", watched)
    weights = [0.2, 1.0, 1.8]
    rows = run({"w": first_images(data, weights=weights)}, metrics=["lrs"])
    assert rows["weights"].tolist() == ["ignored", "loss"]
    ignored, reference, weighted = given[:2], given[2], given[3:]
    assert all((kept == 1).all() for kept in (*ignored, reference)) and len(weighted) == 2
    assert all(torch.allclose(kept, torch.tensor(weights).repeat(3)) for kept in weighted)
    assert rows["random_soft"].nunique() == 1  # the reference is trained once, without weights
    assert run({"w": first_images(data, weights=weights)}, weighting="off")["weights"].tolist() == ["ignored"]


def test_a_set_of_another_size_is_resized(bench):
    data, run = bench
    made = first_images(data)
    small = dataclasses.replace(made, images=made.images[..., ::2, ::2].contiguous())
    assert run([small], metrics=["ars"])["status"].tolist() == ["done"]


def test_mistakes_are_said_before_any_training(bench):
    data, run = bench
    with pytest.raises(EvaluationError, match="no metric 'lsr'"):
        run([first_images(data)], metrics=["lsr"])
    with pytest.raises(EvaluationError, match="put weights into the loss"):
        run([first_images(data)], weighting="sampler")
    with pytest.raises(EvaluationError, match="the random reference needs 13"):
        made = first_images(data, ipc=12)
        more = dataclasses.replace(
            made,
            images=made.images.repeat_interleave(2, 0),
            labels=made.labels.repeat_interleave(2),
            weights=made.weights.repeat_interleave(2),
        )
        keep = torch.cat([torch.arange(c * 24, c * 24 + 13) for c in range(3)])
        run([dataclasses.replace(more, images=more.images[keep], labels=more.labels[keep], weights=more.weights[keep])])


def test_the_reference_has_the_sets_number_of_images_of_every_class():
    data = tiny_data()
    found = random_reference(data, 4, seed=0)
    assert found.labels.bincount().tolist() == [4, 4, 4]
    assert (found.weights == 1).all()
    assert len(torch.unique(found.images.flatten(1), dim=0)) == 12  # without replacement


def test_the_trainings_that_the_scores_compare_differ_in_what_they_should():
    roles = role_protocols(load_protocol("ddranking_d4m_cifar"))
    soft, hard, plain = roles["soft"], roles["hard"], roles["plain"]
    assert (hard.label_mode, hard.loss.name, hard.mixing.name) == ("hard", "cross_entropy", "none")
    assert hard.augmentation == soft.augmentation
    assert (plain.label_mode, plain.augmentation.crop, plain.augmentation.flip) == ("soft_online", "none", 0)
    assert plain.mixing.name == "none" and plain.loss == soft.loss
    for other in (hard, plain):
        assert (other.epochs, other.batch_size, other.optimizer) == (soft.epochs, soft.batch_size, soft.optimizer)
