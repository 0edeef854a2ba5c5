"""LRS and ARS over several runs, against the formula worked out by hand."""

from __future__ import annotations

import math
import re
import statistics

import pandas as pd
import pytest
from rows_for_reports import full_row, row

from ddoq_plugin.report import Run, format_table, make_frame, scores_of_runs, write_results
from ddoq_plugin.report.score_tables import training_kind

AUGMENTED = {"augmentation": {"crop": "resized", "flip": 0.0}, "mixing": {"name": "cutmix"}}
AS_IT_IS = {"augmentation": {"crop": "none", "flip": 0.0}, "mixing": {"name": "none"}}
PROTOCOLS = {
    "soft": {"label_mode": "soft_online", **AUGMENTED},
    "hard": {"label_mode": "hard", **AUGMENTED},
    "plain": {"label_mode": "soft_online", **AS_IT_IS},
}

# top-1 in percent by label, of seeds 0 and 1
SOFT = {"random": (60.0, 62.0), "ddoq sqrt": (70.0, 71.0)}
HARD = {"random": (40.0, 41.0), "ddoq sqrt": (55.0, 57.0), "full_data": (90.0, 92.0)}
PLAIN = {"random": (50.0, 52.0), "ddoq sqrt": (58.0, 59.0)}


def a_run(kind, accuracies, *, students=("mlp",), name=None, lr=0.01, val=None, **columns):
    """Return a run of this kind; every student gets the same accuracies, lowered by its place."""
    protocol = {**PROTOCOLS[kind], "name": f"{kind} at {lr}", "optimizer": {"name": "adamw", "lr": lr}}
    given = {"run": name or kind, "protocol": protocol["name"], "teacher": None if kind == "hard" else "resnet10_w16"}
    rows = []
    for label, by_seed in accuracies.items():
        for seed, top1 in enumerate(by_seed):
            for place, student in enumerate(students):
                about = {**given, "top1": top1 - 10 * place, "val_top1": 50.0 if val is None else val, **columns}
                clusters = 20 if label.startswith("ddoq") else None
                made = full_row(student, seed) if label == "full_data" else row(label, 10, clusters, student, seed)
                rows.append({**made, **about})
    return Run(make_frame(rows), "", {"name": name or kind, "protocol": protocol})


def normalised(value):
    return (math.exp(value) - math.exp(-1)) / (math.e - math.exp(-1))


def cell(table, label, column, statistic="mean"):
    records = dict(zip((key[0] for key in table.index), table.to_dict("records"), strict=True))
    return records[label][column, statistic]


def test_the_tables_numbers_follow_from_the_formula_by_hand():
    (found,) = scores_of_runs([a_run("soft", SOFT), a_run("hard", HARD), a_run("plain", PLAIN)])
    assert found.missing == ""
    # alpha = (set soft - random soft) / 2 - (full hard - set hard) / 2, of fractions
    lrs = [normalised(0.5 * (0.70 - 0.60) - 0.5 * (0.90 - 0.55)), normalised(0.5 * (0.71 - 0.62) - 0.5 * (0.92 - 0.57))]
    # beta = (set - random, augmented) / 2 + (set - random, plain) / 2
    ars = [normalised(0.5 * (0.70 - 0.60) + 0.5 * (0.58 - 0.50)), normalised(0.5 * (0.71 - 0.62) + 0.5 * (0.59 - 0.52))]
    for column, values in (("LRS mlp", lrs), ("ARS mlp", ars)):
        assert cell(found.table, "ddoq sqrt", column) == pytest.approx(statistics.fmean(values))
        assert cell(found.table, "ddoq sqrt", column, "std") == pytest.approx(statistics.stdev(values))
        assert cell(found.table, "ddoq sqrt", column, "n") == 2
        assert cell(found.table, "ddoq sqrt", column, "best") and not cell(found.table, "random", column, "best")
    assert cell(found.table, "random", "ARS mlp") == pytest.approx(normalised(0))
    assert cell(found.table, "random", "LRS mlp") == pytest.approx(
        statistics.fmean([normalised(-0.5 * (0.90 - 0.40)), normalised(-0.5 * (0.92 - 0.41))])
    )
    text = format_table(found.table)
    assert f"{statistics.fmean(ars):.3f} ± {statistics.stdev(ars):.3f}" in text
    assert "class labels: hard at 0.01 (run hard)" in text and "full data" not in text


def test_students_have_their_own_columns_and_a_mean_over_them():
    students = ("mlp", "vit")
    runs = [a_run(kind, values, students=students) for kind, values in (("soft", SOFT), ("hard", HARD))]
    (found,) = scores_of_runs(runs)
    columns = list(dict.fromkeys(found.table.columns.get_level_values(0)))
    assert columns == ["LRS mlp", "LRS vit", "LRS mean over students", "note"]
    # both students' accuracies are shifted alike, so that the score is the same
    assert cell(found.table, "ddoq sqrt", "LRS vit") == pytest.approx(cell(found.table, "ddoq sqrt", "LRS mlp"))
    assert found.missing == "digits: ARS needs a run of the same sets with soft labels without augmentation."


def test_the_learning_rate_is_chosen_on_validation_alone():
    low = a_run("soft", {"random": (99.0, 99.0), "ddoq sqrt": (99.0, 99.0)}, name="low", lr=0.1, val=40.0)
    high = a_run("soft", SOFT, name="high", lr=0.01, val=41.0)
    hard = a_run("hard", HARD)
    (alone,) = scores_of_runs([high, hard])
    for runs in ([low, high, hard], [high, low, hard]):
        (found,) = scores_of_runs(runs)
        assert cell(found.table, "ddoq sqrt", "LRS mlp") == cell(alone.table, "ddoq sqrt", "LRS mlp")
        assert "the better learning rate on validation" in found.table.attrs["heading"]


def test_protocols_that_differ_in_more_are_no_search():
    other = a_run("soft", SOFT, name="other")
    other.meta["protocol"]["epochs"] = 5
    (found,) = scores_of_runs([a_run("soft", SOFT), other, a_run("hard", HARD)])
    assert found.table is None
    assert "the runs soft and other, both with soft labels, have protocols that differ in more" in found.missing


def test_accuracies_of_other_images_are_not_mixed():
    (found,) = scores_of_runs([a_run("soft", SOFT), a_run("hard", HARD, set_hash="other images")])
    assert found.table is None and "is not the same set in all runs" in found.missing


def test_two_teachers_make_no_score():
    (found,) = scores_of_runs([a_run("soft", SOFT), a_run("plain", PLAIN, teacher="vit2_w64")])
    assert found.table is None and "several values of teacher" in found.missing


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ([("soft", SOFT)], "LRS needs a run of the same sets with class labels; ARS needs a run of the same sets with "
                           "soft labels without augmentation."),
        ([("hard", HARD)], "LRS needs a run of the same sets with soft labels; ARS needs"),
        ([("soft", SOFT), ("hard", {k: v for k, v in HARD.items() if k != "full_data"})],
         "LRS needs full data in the run with class labels"),
        ([("soft", {"ddoq sqrt": SOFT["ddoq sqrt"]}), ("hard", HARD)], "LRS needs random sets in the run with soft"),
    ],
)  # fmt: skip
def test_what_the_runs_lack_is_one_sentence(runs, said):
    (found,) = scores_of_runs([a_run(kind, values) for kind, values in runs])
    assert found.table is None and said in found.missing and found.missing.count(".") == 1


def test_a_seed_without_every_accuracy_has_no_score():
    short = {**HARD, "ddoq sqrt": HARD["ddoq sqrt"][:1]}
    (found,) = scores_of_runs([a_run("soft", SOFT), a_run("hard", short)])
    assert cell(found.table, "ddoq sqrt", "LRS mlp", "n") == 1 and cell(found.table, "random", "LRS mlp", "n") == 2


def test_the_kind_of_a_training_follows_from_its_protocol():
    assert [training_kind(protocol) for protocol in PROTOCOLS.values()] == ["soft", "hard", "plain"]
    mirrored = {**PROTOCOLS["plain"], "augmentation": {"crop": "none", "flip": 0.5}}
    assert training_kind(mirrored) == "soft" and training_kind(None) is None
    from ddoq_plugin.evaluation import load_protocol
    from ddoq_plugin.hosts.own_evaluator import role_protocols

    roles = role_protocols(load_protocol("ddranking_short"))
    assert {role: training_kind(one.model_dump(mode="json")) for role, one in roles.items()} == {
        "soft": "soft", "hard": "hard", "plain": "plain"
    }  # fmt: skip


def test_the_page_has_the_scores_in_every_form_with_their_accuracies(tmp_path):
    runs = [a_run("soft", SOFT), a_run("hard", HARD), a_run("plain", PLAIN)]
    page = write_results(runs, tmp_path / "RESULTS.md")
    text = page.read_text()
    section = text[text.index("## LRS and ARS") :]
    assert "| ddoq sqrt | 10 | 20 | **0.2" in section
    (link,) = re.findall(r"\[scores.csv\]\(([^)]+)\)", section)
    kept = pd.read_csv(tmp_path / link)
    assert kept.loc[kept["label"] == "ddoq sqrt", "set_hard"].tolist() == [55.0, 57.0]
    folder = (tmp_path / link).parent
    assert {file.suffix for file in folder.glob("lrs_ars.*")} == {".md", ".tex", ".csv", ".parquet"}
    flat = pd.read_parquet(folder / "lrs_ars.parquet").set_index("method")
    assert flat.loc["ddoq sqrt", "ARS mlp n"] == 2
    alone = write_results(runs[:1], tmp_path / "alone" / "RESULTS.md").read_text()
    assert "digits: LRS needs a run of the same sets with class labels" in alone
