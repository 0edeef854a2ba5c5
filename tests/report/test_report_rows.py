"""Reading rows."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from rows_for_reports import full_row, row, sweep_rows

from ddoq_plugin.errors import EvaluationError
from ddoq_plugin.record import BY_NAME
from ddoq_plugin.report import (
    cost_table,
    cross_model_table,
    findings,
    load_rows,
    load_run,
    make_frame,
    open_run,
    write_results,
)
from ddoq_plugin.report.rows import RowKey, lines_of, row_key


def write_run(folder, rows):
    (folder / "rows").mkdir(parents=True)
    for place, content in enumerate(rows):
        (folder / "rows" / f"{place:03d}.json").write_text(json.dumps(content))
    return folder


def test_rows_come_back_with_every_column_and_type(tmp_path):
    rows = [row("random", 1, None, seed=1), full_row(), row("d4m", 1, 20, status="failed", top1=None, error="boom")]
    frame = load_rows(write_run(tmp_path, rows))
    assert set(BY_NAME) <= set(frame.columns)
    assert [row_key(one) for one in frame.to_dict("records")] == [
        RowKey("d4m", 1, 20), RowKey("random", 1, None), RowKey("full_data", None, None)
    ]  # fmt: skip
    assert str(frame["ipc"].dtype) == str(frame["clusters"].dtype) == "Int64"
    assert frame["top1"].dtype == "float64"
    assert load_rows(tmp_path / "rows").equals(frame)


def test_the_order_of_rows_does_not_depend_on_the_files(tmp_path):
    rows = sweep_rows(seeds=2)
    assert load_rows(write_run(tmp_path / "a", rows)).equals(load_rows(write_run(tmp_path / "b", rows[::-1])))


def test_lines_follow_ipc_and_their_place_in_the_config_with_full_data_last():
    rows = [full_row(), row("ddoq sqrt", 1, 1, place=1), row("random", 10, None, place=3), row("d4m", 10, 20, place=0),
            row("d4m", 10, 10, place=0),
            row("zeta", 1, 1), row("centroid", 1, 1, place=2), row("alpha", 1, 1)]  # fmt: skip
    assert [str(key) for key in lines_of(make_frame(rows))] == [
        "ddoq sqrt, IPC 1, K = 1", "centroid, IPC 1, K = 1", "alpha, IPC 1, K = 1", "zeta, IPC 1, K = 1",
        "d4m, IPC 10, K = 10", "d4m, IPC 10, K = 20", "random, IPC 10", "full data",
    ]  # fmt: skip


def test_what_is_wrong_with_a_folder_is_named(tmp_path):
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(EvaluationError, match="no result rows in"):
            load_rows(folder)
    (tmp_path / "rows").mkdir()
    with pytest.raises(EvaluationError, match="no result rows in .*rows; run the sweep"):
        load_rows(tmp_path)
    (tmp_path / "rows" / "x.json").write_text("{half")
    with pytest.raises(EvaluationError, match="x.json cannot be read"):
        load_rows(tmp_path)
    (tmp_path / "rows" / "x.json").write_text("[1]")
    with pytest.raises(EvaluationError, match="x.json is no mapping"):
        load_rows(tmp_path)


def test_missing_columns_and_doubled_rows_are_named():
    with pytest.raises(EvaluationError, match="no column 'label'"):
        make_frame([{"method": "d4m"}])
    with pytest.raises(EvaluationError, match="two rows have d4m, IPC 1, K = 1, student mlp, seed 0"):
        make_frame([row("d4m", 1, 1), row("d4m", 1, 1)])


def test_a_run_brings_its_config_notes_and_teacher(tmp_path):
    write_run(tmp_path, [row("random", 1, None)])
    (tmp_path / "config.yaml").write_text("name: toy\nnotes: read me\n")
    (tmp_path / "meta.json").write_text(
        json.dumps({"teacher": {"val_accuracy": 97.5, "test_accuracy": 96.0}, "cores": 2})
    )
    run = load_run(tmp_path)
    assert (run.name, run.meta["notes"], run.meta["cores"]) == ("toy", "read me", 2)
    assert run.config_text.startswith("name: toy")
    assert run.frame.loc[0, ["teacher_val_top1", "teacher_test_top1"]].tolist() == [97.5, 96.0]


RESULTS = Path(__file__).parents[2] / "results"


@pytest.mark.parametrize(("name", "rows", "best"), [("quickstart", 384, "centroid"), ("fashion_mnist_10k", None, None)])
def test_committed_rows_can_be_tabulated_again(tmp_path, name, rows, best):
    run = load_run(RESULTS / name)
    assert run.name == name and (rows is None or len(run.frame) == rows)
    assert run.frame["seconds_train"].notna().all() and run.frame["peak_memory_mb_train"].notna().all()
    assert run.frame["set_strength"].dropna().between(0, 1).all() and run.frame["weighted"].dtype == "boolean"
    table = cross_model_table(run.frame)
    page = write_results([open_run(RESULTS / name / "rows.csv")], tmp_path / "RESULTS.md")
    mean = table["mean over students", "mean"]
    assert f"{mean.max():.1f}" in page.read_text() and (best is None or mean[best, 1, 1] == mean[:, 1, 1].max())
    assert any("same images, only the weights differ" in text for text in findings(run.frame))
    old = pd.read_csv(RESULTS / name / "rows.csv")
    chosen = old[(old["label"] == "ddoq sqrt") & (old["ipc"] == 10) & (old["clusters"] == 10)]
    by_student = chosen.groupby("student")["top1"].mean()
    for student, value in by_student.items():
        assert mean.index.size and table.loc[("ddoq sqrt", 10, 10), (student, "mean")] == pytest.approx(value)


@pytest.mark.parametrize("file", ["rows.csv", "rows.parquet"])
def test_a_frame_keeps_its_types_and_tables_in_a_file(tmp_path, file):
    settings = {"set_strength": 0.7, "set_steps": 20, "set_clustering": "lloyd", "set_flip": False, "set_words": "1e"}
    rows = [{**one, **(settings if one["method"] == "ddoq" else {})} for one in sweep_rows(seeds=2)]
    rows[0] |= {"error": 'a, b\n"c"', "status": "failed", "method_loss": 0.1 + 0.2, "prior_fingerprint": "012e1"}
    frame = make_frame(rows)
    types = {name: str(frame[name].dtype) for name in settings}
    assert list(types.values()) == ["float64", "Int64", "string", "boolean", "string"]
    write = frame.to_csv if file.endswith("csv") else frame.to_parquet
    write(tmp_path / file, index=False)
    for path in (tmp_path, tmp_path / file):
        read = load_rows(path)
        pd.testing.assert_frame_equal(read, frame)
        pd.testing.assert_frame_equal(cross_model_table(read), cross_model_table(frame))
        pd.testing.assert_frame_equal(cost_table(read), cost_table(frame))


def test_a_file_that_holds_no_rows_is_named(tmp_path):
    (tmp_path / "rows.csv").write_text("top1,label\n1,a\n")
    with pytest.raises(EvaluationError, match="no column 'method'"):
        load_rows(tmp_path)
    (tmp_path / "rows.parquet").write_bytes(b"nothing")
    with pytest.raises(EvaluationError, match="rows.parquet holds no result rows"):
        load_rows(tmp_path)
    (tmp_path / "rows.parquet").unlink()
    make_frame([row("random", 1, None)]).astype({"ipc": "object"}).assign(ipc="one").to_csv(tmp_path / "rows.csv")
    with pytest.raises(EvaluationError, match="'ipc' .* a value that is no Int64"):
        load_rows(tmp_path)


def test_scores_of_a_host_merge_with_rows_and_stay_out_of_their_tables():
    host = [row("d4m", 1, 1, evaluator="ddoq_plugin", weights=way, top1=None, lrs=0.3, val_set_soft=50.0)
            for way in ("ignored", "loss")]  # fmt: skip
    rows = [row("d4m", 1, 1), full_row()]
    frame = make_frame([*rows, *host])
    assert len(frame) == 4 and frame["lrs"].notna().sum() == 2
    pd.testing.assert_frame_equal(cross_model_table(frame), cross_model_table(make_frame(rows)))
