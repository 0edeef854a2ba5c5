"""Reading rows."""

from __future__ import annotations

import json

import pytest
from rows_for_reports import full_row, row, sweep_rows

from ddoq_plugin.errors import EvaluationError
from ddoq_plugin.report import load_rows, load_run, make_frame
from ddoq_plugin.report.rows import COLUMNS, RowKey, row_key, sort_keys


def write_run(folder, rows):
    (folder / "rows").mkdir(parents=True)
    for place, content in enumerate(rows):
        (folder / "rows" / f"{place:03d}.json").write_text(json.dumps(content))
    return folder


def test_rows_come_back_with_every_column_and_type(tmp_path):
    rows = [row("random", 1, None, seed=1), full_row(), row("d4m", 1, 20, status="failed", top1=None, error="boom")]
    frame = load_rows(write_run(tmp_path, rows))
    assert set(COLUMNS) <= set(frame.columns)
    assert [row_key(one) for one in frame.to_dict("records")] == [
        RowKey("random", 1, None), RowKey("d4m", 1, 20), RowKey("full_data", None, None)
    ]  # fmt: skip
    assert str(frame["ipc"].dtype) == str(frame["clusters"].dtype) == "Int64"
    assert frame["top1"].dtype == "float64"
    assert load_rows(tmp_path / "rows").equals(frame)


def test_the_order_of_rows_does_not_depend_on_the_files(tmp_path):
    rows = sweep_rows(seeds=2)
    assert load_rows(write_run(tmp_path / "a", rows)).equals(load_rows(write_run(tmp_path / "b", rows[::-1])))


def test_lines_are_sorted_by_ipc_with_random_first_and_full_data_last():
    keys = [RowKey("full_data", None, None), RowKey("ddoq sqrt", 1, 1), RowKey("d4m", 10, 20), RowKey("d4m", 10, 10),
            RowKey("random", 10, None), RowKey("centroid", 1, 1), RowKey("ddoq uniform", 1, 1)]  # fmt: skip
    assert [str(key) for key in sort_keys(keys)] == [
        "centroid, IPC 1, K = 1", "ddoq uniform, IPC 1, K = 1", "ddoq sqrt, IPC 1, K = 1", "random, IPC 10",
        "d4m, IPC 10, K = 10", "d4m, IPC 10, K = 20", "full data",
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
