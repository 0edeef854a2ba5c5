"""Coresets: their picks against values of the official code, and against plain computation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from ddoq_baselines.engine import greedy
from ddoq_baselines.engine.greedy import Similarity, facility_location, graph_cut, herding, k_center, nearest_chosen
from ddoq_baselines.engine.importance import draw, kernel_leverage, lightweight, ridge_leverage, sensitivity
from ddoq_baselines.engine.scored import mean_scores
from published import Values, near

from ddoq_plugin.data import load_data
from ddoq_plugin.distiller import DistillContext, make_distiller
from ddoq_plugin.errors import ConfigError
from ddoq_plugin.evaluation.dynamics import forgetting

METHODS = ("facility_location", "graph_cut", "herding", "k_center")


@pytest.fixture
def context(tmp_path):
    from ddoq_plugin.store import Store

    return DistillContext(load_data("digits", limit_per_class=12), None, Store(tmp_path))


def features(count: int = 60, width: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_geometry_picks_what_the_published_code_picks():
    values = Values("coreset_geometry")
    x, budget = values["X"], int(values["budget"])
    assert herding(x, budget).tolist() == values["herding_order"].tolist()
    assert k_center(x, budget).tolist() == values["kcenter_mean_order"].tolist()
    first = np.array([int(values["kcenter_first"])])
    after = k_center(x, budget - 1, first)
    assert sorted([*first.tolist(), *after.tolist()]) == values["kcenter_first_set"].tolist()
    given = values["kcenter_given"].numpy()
    assert sorted([*given.tolist(), *k_center(x, budget, given).tolist()]) == values["kcenter_given_set"].tolist()


def test_submodular_picks_are_those_of_deepcore_and_submodlib():
    values = Values("coreset_submodular")
    cosine, budget = values["similarity"].numpy(), int(values["budget"])
    near(torch.from_numpy(Similarity(values["X"], "cosine").matrix), values["similarity"])
    for name in ("FacilityLocation.NaiveGreedy", "FacilityLocation.LazyGreedy", "submodlib.FacilityLocation"):
        assert facility_location(cosine, 40, budget).tolist() == values[f"{name}.order"].tolist()
    for name in ("GraphCut.NaiveGreedy", "GraphCut.LazyGreedy", "submodlib.GraphCut_lambda1"):
        assert graph_cut(cosine, 40, budget).tolist() == values[f"{name}.order"].tolist()
    craig = values["craig.similarity"].numpy()
    chosen = facility_location(craig, 40, budget)
    assert chosen.tolist() == values["craig.order"].tolist()
    by_place = dict(zip(chosen.tolist(), nearest_chosen(craig, chosen).tolist(), strict=True))
    published = (values["craig.weights_deepcore"] - 1).tolist()  # DeepCore's are one too large
    assert [by_place[place] for place in values["craig.set"].tolist()] == published


def test_importance_is_that_of_its_formulas():
    values = Values("leverage_scores")
    x, lam = values["X"], float(values["lam"])
    near(ridge_leverage(x, 0.0), values["leverage"])
    near(ridge_leverage(x, lam), values["ridge_leverage"])
    assert float(ridge_leverage(x, lam).sum()) == pytest.approx(float(values["effective_dimension"]))
    wide = x.T.contiguous()  # more numbers than rows: by the other product
    near(ridge_leverage(wide, lam), kernel_leverage(wide @ wide.T, lam))
    kernel = torch.exp(-float(values["rbf_gamma"]) * torch.cdist(x, x).square())
    near(kernel_leverage(kernel, lam), values["rbf_ridge_leverage"])
    near(lightweight(x), values["lightweight_coreset_prob"])
    near(1 / (10 * ridge_leverage(x, lam) / ridge_leverage(x, lam).sum()), values["weights_m10"])


def test_forgetting_counts_what_the_published_code_counts():
    values = Values("coreset_scores")
    correct = values["forgetting.predictions"] == values["y"]
    events, never = values["forgetting.events"], ~correct.any(0)
    assert torch.equal(forgetting(correct)[~never], events[~never].float())
    assert bool((forgetting(correct)[never] == len(correct) + 1).all()), "never learnt is the most forgotten"


@pytest.mark.parametrize("kind", ["rbf", "cosine", "distance"])
def test_lazy_and_blocked_choice_equals_plain_greedy(kind, monkeypatch):
    x = features()
    x[7] = x[3]  # a double: the lower place wins
    similarity = Similarity(x, kind)
    whole, chosen = similarity.matrix, []
    for _ in range(12):
        covered = whole[chosen].max(0) if chosen else np.zeros(60)
        gains = [-1 if place in chosen else np.maximum(whole[place] - covered, 0).sum() for place in range(60)]
        chosen.append(int(np.flatnonzero(np.array(gains) >= max(gains) * (1 - 1e-12))[0]))
    assert facility_location(whole, 60, 12).tolist() == chosen
    assert facility_location(whole, 60, 5).tolist() == chosen[:5]
    monkeypatch.setattr(greedy, "DENSE", 10)
    monkeypatch.setattr(greedy, "BLOCK", 7)
    blocked = Similarity(x, kind)
    assert blocked.matrix is None
    assert facility_location(blocked.rows, 60, 12).tolist() == chosen
    assert graph_cut(blocked.rows, 60, 12).tolist() == graph_cut(whole, 60, 12).tolist()


def test_facility_location_is_never_far_from_the_best():
    whole = Similarity(features(14), "rbf").matrix
    best = max(whole[list(some)].max(0).sum() for some in itertools.combinations(range(14), 4))
    assert whole[facility_location(whole, 14, 4)].max(0).sum() >= (1 - 1 / np.e) * best


@pytest.mark.parametrize("budget", [1, 4, 60])
def test_all_images_can_be_chosen_and_doubles_are_no_fault(budget):
    x = features().repeat_interleave(2, 0)[:60]
    for kind in ("rbf", "cosine", "distance"):
        rows = Similarity(x, kind).rows
        for chosen in (facility_location(rows, 60, budget), graph_cut(rows, 60, budget)):
            assert len(set(chosen.tolist())) == budget
        assert nearest_chosen(rows, facility_location(rows, 60, budget)).sum() == 60
    for chosen in (herding(x, budget), k_center(x, budget)):
        assert len(set(chosen.tolist())) == budget
    same = torch.ones(6, 3)
    for kind in ("rbf", "cosine", "distance"):
        assert facility_location(Similarity(same, kind).rows, 6, 6).tolist() == list(range(6))


def test_draws_follow_importance_and_continue():
    importance = torch.tensor([1.0, 2, 3, 0])
    counts = torch.zeros(4)
    generator = torch.Generator().manual_seed(0)
    for _ in range(6000):
        counts[draw(importance, 1, generator)] += 1
    assert (counts / 6000 - importance / 6).abs().max() < 0.02
    longer = draw(importance, 4, torch.Generator().manual_seed(3)).tolist()
    assert draw(importance, 2, torch.Generator().manual_seed(3)).tolist() == longer[:2] and longer[-1] == 3


def test_sensitivity_bounds_the_share_of_any_centres():
    x = features(40, 3).double()
    bound = sensitivity(x, 3, seed=0, class_id=0)
    for seed in range(50):
        centres = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2
        squared = torch.cdist(x, centres).square().min(1).values
        assert bool((squared / squared.mean() <= bound).all())


@pytest.mark.parametrize("name", METHODS)
def test_a_smaller_set_is_the_beginning_of_a_larger_one(name, context):
    method = make_distiller(name, {"features": "pixels"})
    large, small = method.distill(context, 5), method.distill(context, 2)
    assert torch.equal(large.images.view(10, 5, -1)[:, :2], small.images.view(10, 2, -1))
    assert torch.equal(large.images, method.distill(context, 5, seed=1).images), "the seed decides nothing"


def test_weights_are_the_cells(context):
    made = make_distiller("facility_location", {"weighting": "counts"}).distill(context, 3)
    counts = made.weights.view(10, 3) * 12 / 3
    assert torch.allclose(counts, counts.round(), atol=1e-5) and bool((counts.sum(1).round() == 12).all())
    equal = make_distiller("facility_location", {}).distill(context, 3)
    assert torch.equal(made.images, equal.images) and bool((equal.weights == 1).all())
    assert made.provenance["stats"]["w2_used"] < made.provenance["stats"]["w2_uniform"], "Voronoi masses are the best"
    with pytest.raises(ConfigError, match="needs alpha"):
        make_distiller("facility_location", {"weighting": "power"})


def test_easiest_and_hardest_are_the_ends_of_the_scores(context):
    easy, hard = (make_distiller("el2n", {"epochs": 2, "networks": 2, "pick": pick}) for pick in ("easiest", "hardest"))
    scores = mean_scores(context, "el2n", easy.config, seed=1)
    kind = [context.scores("el2n", run, "convnet3_w32", 2) for run in (2, 3)]
    assert torch.allclose(scores, torch.stack(kind).double().mean(0))
    for method, best in ((easy, scores.argsort()), (hard, scores.argsort(descending=True))):
        images = method.distill(context, 2, seed=1).images.view(10, 2, -1)
        places = context.data.train.class_indices(4).tolist()
        own = [places.index(place) for place in best.tolist() if place in places][:2]
        assert torch.equal(images[4], context.images(4, torch.tensor(own)).flatten(1))


def test_features_of_networks_are_declared_and_wrong_ones_refused(context):
    method = make_distiller("herding", {"features": "trained:convnet3_w32"})
    kinds = [work.kind for work in context.work_of(method, 2).needs]
    assert kinds.count("features") == 10
    for wrong in ("nonsense", "trained:convnet99", "random:"):
        with pytest.raises(Exception, match="extractor|convnet99"):
            make_distiller("herding", {"features": wrong}).check(context, 2, None)
