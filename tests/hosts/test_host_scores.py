from __future__ import annotations

import math

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddoq_plugin.errors import EvaluationError
from ddoq_plugin.report.robust_scores import (
    augmentation_robust_score,
    best_on_validation,
    label_robust_score,
    score_columns,
    scores_from_rows,
)

fraction = st.floats(0, 1)


def test_scores_at_the_ends_and_in_the_middle_of_their_range():
    worst = {"full_hard": 1.0, "set_hard": 0.0, "set_soft": 0.0, "random_soft": 1.0}
    best = {"full_hard": 0.0, "set_hard": 1.0, "set_soft": 1.0, "random_soft": 0.0}
    assert label_robust_score(**worst) == 0
    assert label_robust_score(**best) == pytest.approx(1)
    even = augmentation_robust_score(set_augmented=0.4, random_augmented=0.4, set_plain=0.7, random_plain=0.7)
    assert even == pytest.approx((1 - math.exp(-1)) / (math.e - math.exp(-1)))


def test_a_score_worked_out_by_hand():
    # 28.7 points behind full data and 49.4 behind random images: alpha = -(0.287 + 0.494) / 2
    found = label_robust_score(full_hard=0.8, set_hard=0.513, set_soft=0.3, random_soft=0.794)
    assert found == pytest.approx(0.1314, abs=1e-4)


@settings(deadline=None, max_examples=30)
@given(fraction, fraction, fraction, fraction, st.floats(0.01, 0.2))
def test_lrs_rises_with_the_sets_accuracies_and_falls_with_those_it_is_compared_with(full, hard, soft, random, step):
    names = {"full_hard": full, "set_hard": hard, "set_soft": soft, "random_soft": random}
    base = label_robust_score(**names)
    assert -1e-12 <= base <= 1 + 1e-12
    for name, sign in (("set_hard", 1), ("set_soft", 1), ("full_hard", -1), ("random_soft", -1)):
        if names[name] + step <= 1:
            assert sign * (label_robust_score(**names | {name: names[name] + step}) - base) > 0


def test_percent_is_refused_where_fractions_are_meant():
    with pytest.raises(EvaluationError, match="full_hard must be a fraction.*divide percent by 100"):
        label_robust_score(full_hard=85.0, set_hard=0.4, set_soft=0.5, random_soft=0.5)


def test_columns_come_from_percent_and_only_where_their_accuracies_are_there():
    lrs = {"full_hard": 80.0, "set_hard": 51.3, "set_soft": 30.0, "random_soft": 79.4}
    columns = score_columns(lrs)
    assert columns["hard_label_recovery"] == pytest.approx(28.7)
    assert columns["improvement_over_random"] == pytest.approx(-49.4)
    assert columns["lrs"] == pytest.approx(0.1314, abs=1e-4) and "ars" not in columns
    assert score_columns({"set_soft": 30.0}) == {}


def row(label, top1, *, ipc=10, student="mlp", seed=0, val=50.0, status="done"):
    method = label.split()[0]
    return {
        "method": method, "label": label, "ipc": ipc, "clusters": None, "student": student, "seed": seed,
        "status": status, "top1": top1, "val_top1": val,
    }  # fmt: skip


def test_scores_from_the_rows_of_sweeps_compare_like_with_like():
    soft = pd.DataFrame([row("random", 60.0), row("ddoq", 70.0), row("random", 10.0, ipc=1), row("ddoq", 20.0, ipc=1)])
    hard = pd.DataFrame([row("random", 40.0), row("ddoq", 55.0), row("full_data", 90.0, ipc=None)])
    plain = pd.DataFrame([row("random", 50.0), row("ddoq", 58.0)])
    found = scores_from_rows(soft, hard=hard, plain=plain).set_index(["label", "ipc"])
    cell = found.loc["ddoq", 10]
    expected = label_robust_score(full_hard=0.9, set_hard=0.55, set_soft=0.7, random_soft=0.6)
    assert cell["lrs"] == pytest.approx(expected)
    expected = augmentation_robust_score(set_augmented=0.7, random_augmented=0.6, set_plain=0.58, random_plain=0.5)
    assert cell["ars"] == pytest.approx(expected)
    assert found.loc["random", 10]["improvement_over_random"] == 0
    assert found.loc["ddoq", 1]["random_soft"] == 10 and pd.isna(found.loc["ddoq", 1]["lrs"])  # no class-label rows


def test_rows_without_a_reference_or_a_second_training_are_refused():
    soft = pd.DataFrame([row("ddoq", 70.0)])
    with pytest.raises(EvaluationError, match="class labels .LRS. or without augmentation"):
        scores_from_rows(soft)
    with pytest.raises(EvaluationError, match="no sets of random selection"):
        scores_from_rows(soft, plain=soft)


def test_a_failed_row_is_no_reference():
    soft = pd.DataFrame([row("random", 60.0, status="failed"), row("ddoq", 70.0)])
    with pytest.raises(EvaluationError, match="no sets of random selection"):
        scores_from_rows(soft, plain=soft)


def test_the_learning_rate_is_chosen_on_validation_and_never_on_test():
    low, high = pd.DataFrame([row("ddoq", 99.0, val=40.0)]), pd.DataFrame([row("ddoq", 60.0, val=41.0)])
    for frames in ((low, high), (high, low)):
        chosen = best_on_validation(*frames)
        assert chosen["top1"].tolist() == [60.0]
