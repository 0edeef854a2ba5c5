"""Methods that wrap others: what they hand on, what they refuse, and how they are named."""

from __future__ import annotations

import pytest
import torch
from ddoq_baselines.bilp import remaining
from ddoq_baselines.engine.scored import ScoredConfig, mean_scores
from published import Values

from ddoq_plugin.config import load_config
from ddoq_plugin.data import load_data
from ddoq_plugin.distiller import DistillContext, make_distiller
from ddoq_plugin.errors import ConfigError, DistillError
from ddoq_plugin.evaluation import TrainingSet, load_protocol, train_student
from ddoq_plugin.planning import make_plan
from ddoq_plugin.registry import DISTILLERS
from ddoq_plugin.report import load_rows
from ddoq_plugin.store import Store
from ddoq_plugin.sweeps import sweep
from ddoq_plugin.testing import registered, small_context

QUICK = {"iterations": 3, "batch": 8, "network": "convnet3_w32"}
DM = {"name": "dm", **QUICK}
NETWORKS = {"count": 2, "epochs": 2}
FAST = {"epochs": 1, "networks": 1}


@pytest.fixture
def context(tmp_path):
    return DistillContext(load_data("digits", limit_per_class=12), None, Store(tmp_path))


def plain_methods() -> list[str]:
    """Return every registered method that wraps no other."""
    return [name for name in registered() if not make_distiller(name, {}).parts()]


def quick(name: str) -> dict:
    return {"name": name, **DISTILLERS.load(name).quick}


def test_bilp_drops_what_the_published_code_drops():
    values = Values("bilp_drop")
    labels, utility = values["labels"], values["utility"]
    for ratio in values["ratios"].tolist():
        for side in ("large", "small"):
            dropped = set(values[f"dropped.{side}.{ratio}"].long().tolist())
            for label in labels.unique().tolist():
                rows = (labels == label).nonzero()[:, 0]
                count = len(rows) - int(ratio * len(rows))
                kept = rows[remaining(utility[rows], count, large=side == "large")].tolist()
                assert kept == sorted(set(rows.tolist()) - dropped)


@pytest.mark.parametrize("name", plain_methods())
def test_every_method_runs_inside_bilp(name):
    context = small_context(DISTILLERS.load(name).needs_prior)
    wrapper = make_distiller("bilp", {"inner": quick(name), "ratio": 0.3, "score": "random"})
    made = wrapper.distill(context, 1)
    assert made.ipc == 1 and made.provenance["inner"]["method"] == name
    assert made.provenance["settings"]["inner"]["name"] == name and made.provenance["stats"]["kept_share"] == 0.75
    assert wrapper.label() == f"bilp random({wrapper.inner.label()})"


@pytest.mark.parametrize("name", plain_methods())
def test_every_method_runs_in_stages_or_is_refused_in_one_sentence(name):
    method = DISTILLERS.load(name)
    context = small_context(method.needs_prior)
    wrapper = make_distiller("pdd", {"inner": quick(name), "stages": 2, "networks": NETWORKS})
    if not method.conditions:
        with pytest.raises(DistillError, match="cannot go on from images of an earlier stage; wrap") as caught:
            wrapper.distill(context, 2)
        assert "\n" not in str(caught.value)
        return
    settings = {key: value for key, value in quick(name).items() if key != "name"}
    fixed = {key: value for key, value in settings.items() if not isinstance(value, dict)} | {"outer": 2, "inner": 1}
    fixed = {key: value for key, value in fixed.items() if key in method.Config.model_fields}
    inner = {"name": name, **settings, **fixed}
    made = make_distiller("pdd", {"inner": inner, "stages": 2, "networks": NETWORKS}).distill(context, 2)
    assert made.stage.tolist() == [0, 1] * 10
    first = context.distilled(make_distiller(name, {key: value for key, value in inner.items() if key != "name"}), 1)
    rows = made.stage == 0
    exact = [(one.images, rows_of(one.images, two.images)) for one, two in [(first, made)]]
    for own, of_union in exact:
        assert torch.equal(own, of_union), "a later stage changed the images of an earlier one"
    whole = made.images if made.floats is None else made.floats
    assert not torch.equal(whole[rows], whole[~rows])


def rows_of(first, union):
    return union.unflatten(0, (10, -1))[:, : len(first) // 10].flatten(0, 1)


def test_one_stage_is_the_inner_method(context):
    plain = context.distilled(make_distiller("dm", QUICK), 2, seed=1)
    assert make_distiller("pdd", {"inner": DM, "stages": 1}).distill(context, 2, seed=1).hash == plain.hash


def test_a_stage_sees_networks_that_were_trained_on_the_earlier_ones(context):
    whole = make_distiller("pdd", {"inner": DM, "stages": 2, "networks": NETWORKS})
    made = whole.distill(context, 2)
    longer = make_distiller("pdd", {"inner": DM, "stages": 2, "networks": NETWORKS | {"epochs": 3}}).distill(context, 2)
    same, other = ((made.stage == stage) for stage in (0, 1))
    assert torch.equal(made.images[same], longer.images[same])
    assert not torch.equal(made.images[other], longer.images[other])
    assert whole.distill(context, 2).hash == made.hash
    assert len(list(context.store.root.glob("stage_networks/*/manifest.json"))) == 4


def test_a_student_is_trained_stage_by_stage(context):
    made = make_distiller("pdd", {"inner": DM, "stages": 2, "networks": NETWORKS}).distill(context, 2)
    scores = []
    for staged in (False, True):
        one = load_protocol({"extends": "hard_short", "steps": 4, "staged": staged})
        train = TrainingSet.from_set(made, one, context.data.image_size)
        result = train_student(train, "mlp", one, context.data, seed=0)
        assert result.steps == 4, "both trainings have equal steps"
        scores.append(result.top1)
    assert scores[0] != scores[1]


def test_stages_that_cannot_be_are_refused(context):
    for settings, ipc, message in (
        ({"stages": 2}, 3, "3 images a class cannot be made in 2 equal stages"),
        ({"stages": 2, "inner": {"name": "pdd", "inner": DM, "stages": 2}}, 4, "in the stages of another pdd already"),
        ({"stages": 1, "inner": {"name": "mtt", "label_lr": 1.0, "init": "noise"}}, 1, "set init: real"),
    ):
        with pytest.raises(DistillError, match=message):
            make_distiller("pdd", {"inner": DM, "networks": NETWORKS, **settings}).distill(context, ipc)
    by_ipc = {"name": "dm", **QUICK, "iterations": {4: 2}}  # of the whole set, whatever the stage
    made = make_distiller("pdd", {"inner": by_ipc, "stages": 2, "networks": NETWORKS}).distill(context, 4)
    assert made.ipc == 4


def test_wrappers_nest_and_say_so_in_a_sweep(small_sweep):
    pdd = {"name": "pdd", "inner": DM, "stages": 2, "networks": NETWORKS}
    select = {"name": "select", "inner": "k_medoids", "epochs": 1}
    methods = [{"name": "bilp", "inner": pdd, "ratio": 0.5, **FAST}, select]
    change = {"methods": methods, "prior": None, "ipc": 2, "clusters": ["ipc"], "seeds": 1, "full_data": False}
    config = load_config(small_sweep, change)
    hours = {stage.name: stage.hours for stage in make_plan(config).stages}
    assert hours["networks"] > 0 and hours["sets"] > 0
    sweep(config, progress=False, local=True)
    rows = load_rows(config.output_folder).sort_values("label").to_dict("records")
    assert [row["label"] for row in rows] == ["bilp(pdd(dm))", "select(k_medoids)"]
    assert rows[0]["set_inner_inner_name"] == "dm" and rows[0]["method_kept_share"] == 0.5
    assert all(row["status"] == "done" for row in rows)


def test_the_best_candidates_are_kept(context):
    settings = {"inner": {"name": "random"}, "factor": 3, "epochs": 1}
    made = make_distiller("select", settings).distill(context, 2, seed=1)
    candidates = context.distilled(make_distiller("random", {}), 6, seed=1)
    network = context.trained("convnet3_w32", 1, 1)
    with torch.no_grad():
        likely = network(context.normaliser(candidates.images)).softmax(1)
    own = likely[torch.arange(60), candidates.labels].view(10, 6)
    for class_id in range(10):
        best = own[class_id].argsort(descending=True)[:2] + 6 * class_id
        assert torch.equal(made.images[made.labels == class_id], candidates.images[best])
    cosine = make_distiller("select", {**settings, "by": "cosine"}).distill(context, 2, seed=1)
    assert not torch.equal(cosine.images, made.images)


def test_weights_of_the_kept_are_of_mean_one(context):
    inner = {"name": "facility_location", "weighting": "counts"}
    made = make_distiller("select", {"inner": inner, "factor": 2, "epochs": 1}).distill(context, 2)
    assert torch.allclose(made.weights.view(10, 2).mean(1), torch.ones(10)) and made.weights.unique().numel() > 1


def test_the_easiest_half_is_kept(context):
    made = make_distiller("bilp", {"inner": {"name": "random"}, "ratio": 0.5, **FAST}).distill(context, 6, seed=2)
    scores = mean_scores(context, "loss_late", ScoredConfig(**FAST), 2)
    for class_id in range(10):
        own = scores[context.data.train.class_indices(class_id)]
        easy = {image.numpy().tobytes() for image in context.images(class_id, own.argsort()[:6])}
        assert {image.numpy().tobytes() for image in made.images[made.labels == class_id]} == easy


def test_a_class_is_never_too_small_for_the_inner_method(context):
    wrapper = make_distiller("bilp", {"inner": {"name": "random"}, "ratio": 0.99, "score": "random"})
    assert wrapper.distill(context, 5).ipc == 5
    mosaics = make_distiller("bilp", {"inner": {"name": "random_mosaic"}, "ratio": 0.5, "score": "random"})
    with pytest.raises(DistillError, match="has 6 training images and 'random_mosaic' needs 8"):
        mosaics.check(context, 2, None)


def test_importance_changes_the_beginning_or_the_batches(context):
    plain = make_distiller("importance", {"inner": DM, "start": "uniform"}).distill(context, 2)
    assert plain.hash == make_distiller("dm", QUICK).distill(context, 2).hash
    kinds = [{"start": "leverage"}, {"start": "uniform", "batches": "leverage"}, {"start": "sensitivity"},
             {"start": "lightweight", "batches": "loss", "epochs": 1}]  # fmt: skip
    made = {make_distiller("importance", {"inner": DM, **kind}).distill(context, 2).hash for kind in kinds}
    assert len(made | {plain.hash}) == 5
    with pytest.raises(DistillError, match="draws no batches"):
        make_distiller("importance", {"inner": "random"}).check(context, 2, None)
    with pytest.raises(DistillError, match="the other way round"):
        make_distiller("importance", {"inner": {"name": "bilp", "inner": DM, **FAST}}).distill(context, 2)


def test_weights_of_batches_keep_sums_unbiased(context, monkeypatch):
    method = make_distiller("importance", {"inner": DM, "start": "uniform", "batches": "loss"})
    monkeypatch.setattr(type(method), "_importance", lambda *asked: torch.arange(1, 13, dtype=torch.float64))
    sampled = method._sampled(context, 2, 0)
    draws, images = torch.Generator().manual_seed(0), context.images(3).float() / 255
    batch = sampled.real_batch(3, 20_000, draws)
    mean = (batch.images * batch.weights.view(-1, 1, 1, 1)).mean(0)
    assert float((mean - images.mean(0)).abs().max()) < 0.03
    assert batch.rows.bincount().float().std() > 5 * (20_000 / 12) ** 0.5, "the draw is not uniform"


@pytest.mark.parametrize(
    ("inner", "message"),
    [({"name": "nonsense"}, "nonsense"), ({}, "inner is a method's name"), ({"name": "dm", "nonsense": 1}, "nonsense")],
)
def test_a_wrong_inner_method_is_named(inner, message):
    with pytest.raises(ConfigError, match=message):
        make_distiller("bilp", {"inner": inner})
