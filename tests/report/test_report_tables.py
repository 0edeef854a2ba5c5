"""The cross-model table, its marks and its forms as text."""

from __future__ import annotations

import csv
import io
import math
import statistics

import numpy as np
import pandas as pd
import pytest
from rows_for_reports import full_row, row, sweep_rows

from ddoq_plugin.errors import ConfigError, EvaluationError
from ddoq_plugin.report import convergence_table, cross_model_table, distribution_table, format_table
from ddoq_plugin.report.tables import MEAN


def line(table, label, ipc, clusters):
    """Return one line of a table as a mapping."""
    for key, record in zip(table.index, table.to_dict("records"), strict=True):
        if tuple(None if pd.isna(part) else part for part in key) == (label, ipc, clusters):
            return record
    raise AssertionError((label, ipc, clusters))


def cells(label, values, ipc=10, clusters=10, student="mlp", **columns):
    return [row(label, ipc, clusters, student, seed, top1=value, **columns) for seed, value in enumerate(values)]


def test_cells_are_mean_and_sample_deviation_over_seeds():
    rows = cells("d4m", [80, 82, 87]) + cells("d4m", [70, 71, 75], student="vit")
    found = line(cross_model_table(pd.DataFrame(rows)), "d4m", 10, 10)
    assert (found["mlp", "mean"], found["mlp", "n"]) == (83.0, 3)
    assert found["mlp", "std"] == pytest.approx(statistics.stdev([80, 82, 87]))
    assert found[MEAN, "mean"] == pytest.approx(statistics.fmean([75, 76.5, 81]))
    assert found[MEAN, "std"] == pytest.approx(statistics.stdev([75, 76.5, 81]))


def test_a_seed_that_one_student_lacks_is_left_out_of_the_mean_over_students():
    rows = cells("d4m", [80, 82]) + cells("d4m", [70], student="vit")
    found = line(cross_model_table(pd.DataFrame(rows)), "d4m", 10, 10)
    assert (found[MEAN, "mean"], found[MEAN, "n"]) == (75.0, 1)
    assert math.isnan(found[MEAN, "std"])


def test_failed_rows_are_counted_and_shown():
    rows = cells("d4m", [80, 82]) + [row("d4m", 10, 10, seed=2, status="failed", top1=None, error="boom")]
    rows += [row("random", 10, None, seed=s, status="failed", top1=None, error="boom") for s in range(3)]
    rows += [row("centroid", 10, None, seed=0, top1=None)]  # finished, and without this metric
    table = cross_model_table(pd.DataFrame(rows))
    assert line(table, "d4m", 10, 10)["mlp", "failed"] == 1
    text = format_table(table)
    assert "81.0 ± 1.4** (1 failed)" in text
    assert "– (3 failed)" in text and "– (1 failed)" in text
    assert "4 of 7 rows failed" in text


def test_only_the_highest_of_an_ipc_and_student_is_bold():
    rows = cells("d4m", [80, 81]) + cells("ddoq sqrt", [80, 82]) + cells("random", [70, 71], clusters=None)
    rows += cells("d4m", [60, 61], ipc=1, clusters=1) + [full_row(seed=s) for s in range(2)]
    table = cross_model_table(pd.DataFrame(rows))
    bold = [key[:2] for key, record in zip(table.index, table.to_dict("records"), strict=True) if record["mlp", "best"]]
    assert bold == [("d4m", 1), ("ddoq sqrt", 10)]


def test_a_clear_difference_is_marked_and_a_doubtful_one_is_not():
    base = [80.0, 81.0, 82.0, 83.0, 84.0]
    rows = cells("d4m", base) + cells(
        "random", [v - 20 + n for v, n in zip(base, [0.1, -0.1, 0, 0.2, -0.2], strict=True)], clusters=None
    )
    rows += cells("ddoq sqrt", [v + 2 + n for v, n in zip(base, [0, 0.1, -0.1, 0.05, 0.02], strict=True)])
    rows += cells("ddoq counts", [v + n for v, n in zip(base, [3, -3, 2, -2, 0.5], strict=True)])
    table = cross_model_table(pd.DataFrame(rows))
    assert line(table, "ddoq sqrt", 10, 10)["mlp", "mark"] == "†‡"
    assert line(table, "ddoq counts", 10, 10)["mlp", "mark"] == "‡"
    assert line(table, "d4m", 10, 10)["mlp", "mark"] == "‡"
    assert line(table, "random", 10, None)["mlp", "mark"] == ""
    assert "over the 5 tests" in " ".join(table.attrs["footnotes"])


def test_holm_takes_a_mark_away_that_a_single_test_would_give():
    rng = np.random.default_rng(1)
    base, rows = [80.0, 81.5, 79.0], []
    rows += cells("d4m", base)
    rows += cells("ddoq sqrt", [v + 1 + n for v, n in zip(base, [0.2, -0.2, 0.1], strict=True)])  # p = 0.013 alone
    assert line(cross_model_table(pd.DataFrame(rows)), "ddoq sqrt", 10, 10)["mlp", "mark"] == "†"
    for place in range(10):
        rows += cells(f"other{place}", list(80 + rng.normal(0, 1, 3)))
    assert line(cross_model_table(pd.DataFrame(rows)), "ddoq sqrt", 10, 10)["mlp", "mark"] == ""


def test_differences_that_do_not_vary_are_no_test_and_get_no_sign():
    rows = cells("d4m", [80, 81]) + cells("ddoq sqrt", [80, 81]) + cells("ddoq counts", [81, 82])
    table = cross_model_table(pd.DataFrame(rows))
    assert [line(table, f"ddoq {w}", 10, 10)["mlp", "mark"] for w in ("sqrt", "counts")] == ["", ""]
    assert "over the 0 tests of this table (none where" in " ".join(table.attrs["footnotes"])


def test_d4m_with_the_same_k_is_the_reference_and_otherwise_that_with_k_equal_to_ipc():
    from ddoq_plugin.report.comparisons import reference_line
    from ddoq_plugin.report.rows import RowKey, make_frame

    run = (10, 20, 30, 50, 60, 70)
    frame = make_frame([one for k in run for one in cells("d4m", [80, 81], clusters=k)])
    for k in (*run, 40, None):
        expected = RowKey("d4m", 10, k if k in run else 10)
        assert reference_line(frame, "d4m", RowKey("ddoq sqrt", 10, k)) == expected
    assert reference_line(frame, "d4m", RowKey("ddoq sqrt", 1, 1)) is None


def test_identical_sets_are_named_and_are_one_test():
    rows = cells("d4m", [80, 81.5]) + cells("ddoq uniform", [82, 81], ipc=1, clusters=1)
    rows += cells("d4m", [80, 81.2], ipc=1, clusters=1)
    twin = [dict(r, label="ddoq sqrt", place=1) for r in rows if r["label"] == "ddoq uniform"]
    rows = [{"place": 0, **r} for r in rows]
    table = cross_model_table(pd.DataFrame(rows + twin))
    assert line(table, "ddoq sqrt", 1, 1)["note", ""] == "identical by construction to ddoq uniform, IPC 1, K = 1"
    assert line(table, "ddoq uniform", 1, 1)["note", ""] == ""
    assert "over the 1 tests" in " ".join(table.attrs["footnotes"])
    assert format_table(table).count("ddoq uniform, IPC 1, K = 1") == 1  # in the note, and not again below the table
    assert "the very same sets, trained and tested once" in format_table(table)


def test_heading_states_setting_teacher_accuracy_and_seeds():
    rows = [r | {"teacher_val_top1": 97.0, "teacher_test_top1": 95.55} for r in sweep_rows()]
    heading = cross_model_table(pd.DataFrame(rows)).attrs["heading"]
    teacher = "teacher resnet10_w16 (val 97.0 %, test 95.5 %)"
    setting = ["dataset digits", "prior dit digits", "protocol soft_short", teacher]
    for part in [*setting, "seeds 0 to 2", "sample standard deviation"]:
        assert part in heading


@pytest.mark.parametrize("column", ["dataset", "prior", "teacher", "protocol"])
def test_a_table_never_mixes_settings(column):
    rows = cells("d4m", [80, 81]) + [row("d4m", 1, 1, **{column: "another"})]
    with pytest.raises(EvaluationError, match=f"several values of {column}"):
        cross_model_table(pd.DataFrame(rows))


def test_detectable_difference_stands_under_the_table():
    rows = cells("d4m", [80, 81, 82]) + cells("ddoq sqrt", [81, 81, 84])  # differences 1, 0, 2: std 1
    footnotes = " ".join(cross_model_table(pd.DataFrame(rows)).attrs["footnotes"])
    assert "3 seeds detect with 80 % power: 3.3 points" in footnotes and "1.00 points" in footnotes


def test_other_metrics_and_full_data():
    rows = cells("d4m", [80, 81], val_top1=70.0) + [full_row(seed=s) for s in range(2)] + [full_row(twice=True)]
    table = cross_model_table(pd.DataFrame(rows), "val_top1")
    assert line(table, "d4m", 10, 10)["mlp", "mean"] == 70.0
    assert line(table, "full data", None, None)["mlp", "mean"] == 81.0
    assert "full_data_2x" not in format_table(table)
    with pytest.raises(EvaluationError, match="no metric 'top_1'; did you mean 'top1'"):
        cross_model_table(pd.DataFrame(rows), "top_1")


def test_markdown_cells_and_seed_counts():
    rows = (
        cells("d4m", [80, 81, 82])
        + cells("random", [70, 71, 72], clusters=None)
        + cells("centroid", [75], clusters=None)
    )
    text = format_table(cross_model_table(pd.DataFrame(rows)))
    assert "| d4m | 10 | 10 | **81.0 ± 1.0** |" in text
    assert "| centroid | 10 |  | 75.0 (n = 1) |" in text
    assert "n = 3 unless given in brackets" in text


def test_csv_holds_the_exact_numbers():
    table = cross_model_table(pd.DataFrame(cells("d4m", [80.123456789, 81]) + cells("random", [70, 71], clusters=None)))
    lines = [text for text in format_table(table, "csv").splitlines() if not text.startswith("#")]
    found = {record["method"]: record for record in csv.DictReader(io.StringIO("\n".join(lines)))}
    assert float(found["d4m"]["mlp mean"]) == line(table, "d4m", 10, 10)["mlp", "mean"]
    assert found["random"]["clusters"] == ""


def test_latex_is_escaped_and_complete():
    text = format_table(cross_model_table(pd.DataFrame(sweep_rows() + cells("k_medoids", [1, 2]))), "latex")
    assert (
        r"convnet3\_w32" in text and r"k\_medoids" in text and r"\mathbf{" in text and r"$^{\dagger\ddagger}$" in text
    )
    body = [part for part in text.splitlines() if part.endswith(r"\\")]
    assert len({part.count("&") for part in body}) == 1 and len(body) == 1 + 19 + 1
    assert not set("†‡±–") & set("".join(part for part in text.splitlines() if not part.startswith("%")))


def test_plain_columns_line_up():
    text = format_table(cross_model_table(pd.DataFrame(sweep_rows())), "plain")
    header = next(part for part in text.splitlines() if part.startswith("method"))
    start = header.index("mlp")
    numbers = [part for part in text.splitlines() if part.startswith(("random  ", "d4m  ", "ddoq "))]
    assert numbers and all(part[start - 1] == " " and part[start] in "*0123456789" for part in numbers)


def test_unknown_style_is_named():
    with pytest.raises(ConfigError, match="no table style 'latx'; did you mean 'latex'"):
        format_table(cross_model_table(pd.DataFrame(cells("d4m", [80]))), "latx")


def test_distribution_table_means_over_seeds_and_states_the_reduction():
    measured = {"w2_uniform": 10.0, "effective_sample_size": 7.0, "space": "latent"}
    rows = [row("ddoq sqrt", 10, 10, student, seed, w2_used=8.0 + seed, **measured)
            for seed in (0, 1) for student in ("mlp", "vit")]  # fmt: skip
    table = distribution_table(pd.DataFrame(rows + cells("random", [70], clusters=None)))
    assert len(table) == 1
    found = table.iloc[0]
    assert (found["W2"], found["reduction %"], found["effective images"]) == (8.5, pytest.approx(15.0), 7.0)
    assert "not squared" in format_table(table)


def test_convergence_compares_the_same_seeds():
    rows = [full_row("mlp", 0, val_top1=95.0), full_row("mlp", 1, val_top1=10.0)]
    rows += [full_row("mlp", 0, twice=True, val_top1=96.0)]
    rows += [full_row("vit", 0, val_top1=80.0), full_row("vit", 0, twice=True, val_top1=82.5)]
    table = convergence_table(pd.DataFrame(rows)).set_index("student")
    assert table.loc["mlp", ["difference", "seeds", "converged"]].tolist() == [1.0, 1, "yes"]
    assert table.loc["vit", "converged"] == "no"
    assert len(convergence_table(pd.DataFrame(cells("d4m", [80])))) == 0
