"""The end-to-end cost of sets and trainings."""

from __future__ import annotations

import pandas as pd
import pytest
from rows_for_reports import full_row, row

from ddoq_plugin.report import cost_table, format_table, training_cost_table

STAGES = {
    "seconds_latents": 30.0, "seconds_codebooks": 2.0, "seconds_images": 60.0, "seconds_distill": 93.0,
    "seconds_label": 5.0, "images_per_second_latents": 40.0, "images_per_second_images": 2.5,
    "peak_memory_mb_latents": 700.0, "peak_memory_mb_images": 1900.0, "peak_memory_mb_train": 800.0,
    "device_latents": "cpu", "device_images": "a GPU", "device_train": "cpu", "images_per_second_train": 4000.0,
    "seconds_own": 1.0,
}  # fmt: skip


def staged(student, seed, **changes):
    return row("ddoq sqrt", 10, 20, student, seed, **{**STAGES, **changes})


def test_total_is_the_sum_of_the_stages_and_a_set_counts_once():
    rows = [staged(student, seed, seconds_images=50.0 + 20 * seed, seconds_distill=83.0 + 20 * seed,
                   seconds_train=1.0 + 3 * (student == "vit"))
            for seed in (0, 1) for student in ("mlp", "vit")]  # fmt: skip
    found = cost_table(pd.DataFrame(rows)).iloc[0]
    parts = ["latents, s", "codebooks, s", "images, s", "rest, s", "labels, s", "training, s"]
    assert found[parts].tolist() == [30, 2, 60, 1, 5, 2.5]
    assert found["total, s"] == sum([30, 2, 60, 1, 5, 2.5])
    assert (found["encoded images/s"], found["generated images/s"], found["trained images/s"]) == (40, 2.5, 4000)
    assert (found["peak memory, MB"], found["device"]) == (1900.0, "a GPU+cpu")


def test_rows_of_older_runs_have_a_line_without_the_stages():
    old = {"peak_memory_mb": 800.0, "peak_memory_mb_train": None, "device": "cpu", "device_train": None}
    rows = [row("d4m", 10, 10, student, seed, seconds_distill=4.0 * seed, seconds_label=None, **old)
            for seed in (0, 1) for student in ("mlp", "vit")]  # fmt: skip
    table = cost_table(pd.DataFrame(rows))
    assert not {"latents, s", "images, s", "labels, s", "generated images/s"} & set(table.columns)
    found = table.iloc[0]
    assert (found["rest, s"], found["training, s"], found["total, s"]) == (2.0, 4.0, 6.0)
    assert (found["peak memory, MB"], found["device"]) == (800.0, "cpu")


def test_every_kind_of_artifact_has_its_seconds_and_counts_in_the_total():
    rows = [staged("mlp", 0, seconds_trajectories=100.0, peak_memory_mb_trajectories=9000.0)]
    found = cost_table(pd.DataFrame(rows)).iloc[0]
    assert (found["trajectories, s"], found["peak memory, MB"]) == (100.0, 9000.0)
    assert found["total, s"] == 30 + 2 + 60 + 100 + 1 + 5 + 4


def test_full_data_costs_its_training_alone_and_the_check_of_convergence_nothing():
    rows = [full_row(seed=0, seconds_train=7.0, seconds_distill=None, seconds_label=None),
            full_row(seed=0, twice=True, seconds_train=90.0), staged("mlp", 0)]  # fmt: skip
    table = cost_table(pd.DataFrame(rows)).set_index("method")
    assert table.loc["full data", "total, s"] == 7.0 and len(table) == 2


def test_what_is_shared_and_what_stands_apart_is_said():
    meta = {
        "prior": {"report": {"autoencoder_seconds": 93.5, "denoiser_seconds": 159.4, "psnr_val_db": 28.0}},
        "teacher": {"seconds": 12.0},
    }
    text = format_table(cost_table(pd.DataFrame([staged("mlp", 0)]), meta))
    assert "share" in text and "counts in full" in text
    assert "prior 253 s, teacher 12 s" in text and "Not in the totals" in text
    assert "Not in the totals: training the prior and the teacher." in format_table(
        cost_table(pd.DataFrame([staged("mlp", 0)]))
    )


def test_failed_rows_cost_nothing():
    rows = [staged("mlp", 0), staged("mlp", 1, status="failed", top1=None, seconds_train=1000.0)]
    assert cost_table(pd.DataFrame(rows)).iloc[0]["training, s"] == 4.0


def test_training_is_told_by_student_and_size_of_the_set():
    rows = [row("d4m", ipc, ipc, "mlp", seed, seconds_train=float(ipc + seed), images_per_second_train=10.0 * ipc)
            for ipc in (1, 10) for seed in (0, 2)]  # fmt: skip
    rows += [full_row("mlp", 0, seconds_train=50.0), full_row("mlp", 0, twice=True, seconds_train=100.0)]
    table = training_cost_table(pd.DataFrame(rows))
    assert table["training, s"].tolist() == [2.0, 11.0, 50.0]
    assert table["trainings"].tolist() == [2, 2, 1]
    assert table["images/s"].tolist()[:2] == [10.0, 100.0] and pd.isna(table["IPC"].iloc[2])
    assert table["peak memory, MB"].tolist() == [800.0] * 3


@pytest.mark.parametrize("style", ["markdown", "latex", "csv", "plain"])
def test_cost_tables_have_every_form(style):
    frame = pd.DataFrame([staged("mlp", 0), full_row()])
    for table in (cost_table(frame), training_cost_table(frame)):
        assert "training" in format_table(table, style)
