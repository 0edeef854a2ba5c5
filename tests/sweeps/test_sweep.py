from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from ddoq_plugin import DistilledSet, sweep
from ddoq_plugin.config import load_config
from ddoq_plugin.evaluation.evaluator import Evaluator
from ddoq_plugin.sweeps.trials import Trial, train_trial
from ddoq_plugin.sweeps.worker import open_session

ROWS = (2 * 2 * 2 + 2) * 2 + 2 * 2  # (ddoq weightings x IPC x K + random x IPC) x seeds, full data, its check


def rows_of(folder):
    return {path.name: json.loads(path.read_text()) for path in sorted((folder / "rows").glob("*.json"))}


def state_of(folder):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (folder / "rows").glob("*.json")}


def run_cli(*arguments, **options):
    command = [sys.executable, "-m", "ddoq_plugin.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, check=False, **options)


def test_sweep_makes_every_row_once_and_a_second_run_nothing(small_sweep, tmp_path, capfd):
    resources = {"stages": {"label": {"cpus": 0.9}}}  # so that a pool of its own makes the labels
    result = sweep(small_sweep, progress=False, resources=resources)
    assert result.failed == 0 and len(result.frame) == ROWS
    rows, before = list(rows_of(result.folder).values()), state_of(result.folder)
    check_columns(rows, result.folder)
    check_identical_by_construction(rows)
    check_links(rows, result.folder)
    again = sweep(small_sweep, progress=False)
    assert state_of(again.folder) == before
    check_row_is_what_training_alone_gives(small_sweep, rows)
    check_lost_links_come_back_and_lost_sets_are_named(small_sweep, result.folder, capfd)
    check_more_seeds_keep_the_rows(small_sweep, before)


def check_lost_links_come_back_and_lost_sets_are_named(config, folder, capfd):
    first, second = sorted((folder / "sets").iterdir())[:2]
    kept = second.resolve()
    first.unlink()
    kept.rename(kept.with_name("elsewhere"))
    sweep(config, progress=True)
    kept.with_name("elsewhere").rename(kept)
    assert first.is_dir()
    assert f"no longer in the store, though their rows are finished: {second.name};" in capfd.readouterr().err


def check_columns(rows, folder):
    assert {row["status"] for row in rows} == {"done"}
    distilled = [row for row in rows if row["kind"] == "distilled"]
    for row in distilled:
        assert 0 <= row["top1"] <= row["top5"] <= 100 and 0 <= row["val_top1"] <= 100
        assert row["w2_used"] > 0 and 1 <= row["effective_sample_size"] <= row["ipc"] + 1e-6
        assert row["commit"] and row["config_hash"] and "torch" in row["versions"] and row["protocol"] == "forty_steps"
    twice = next(row for row in rows if row["kind"] == "full_data_2x")
    assert twice["top1"] is None and twice["steps"] == 80, "the check of convergence must not look at the test split"
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["teacher"]["classes"][0] == "zero" and 0 <= meta["teacher"]["test_accuracy"] <= 100
    assert meta["teacher"]["seconds"] > 0
    assert meta["dataset"]["train"] and meta["commit"] and meta["versions"]["torch"]


def check_identical_by_construction(rows):
    one = [row for row in rows if row["method"] == "ddoq" and row["ipc"] == 1]
    for seed in (0, 1):
        same = [row for row in one if row["seed"] == seed]
        assert len(same) == 4 and len({row["set_hash"] for row in same}) == 1
        assert len({(row["top1"], row["finished"][:10]) for row in same}) == 1
    three = {row["label"]: row for row in rows if row["ipc"] == 3 and row["clusters"] == 3 and row["seed"] == 0}
    assert three["ddoq uniform"]["image_hash"] == three["ddoq sqrt"]["image_hash"]
    assert three["ddoq uniform"]["set_hash"] != three["ddoq sqrt"]["set_hash"]


def check_links(rows, folder):
    row = next(row for row in rows if row["label"] == "ddoq sqrt" and row["clusters"] == 5 and row["ipc"] == 3)
    made = DistilledSet.load(folder / "sets" / f"ddoq_sqrt_ipc3_k5_seed{row['seed']}")
    assert made.hash == row["set_hash"]


def check_row_is_what_training_alone_gives(small_sweep, rows):
    """A worker's row has the bits of the same training in this process."""
    from ddoq_plugin.data import load_data
    from ddoq_plugin.evaluation import load_protocol
    from ddoq_plugin.store.artifacts import Store

    config = load_config(small_sweep)
    row = next(row for row in rows if row["label"] == "ddoq sqrt" and row["ipc"] == 3 and row["seed"] == 1)
    evaluator = Evaluator(
        load_data("digits", limit_per_class=12),
        load_protocol(config.protocol),
        Store(small_sweep.parent / "elsewhere"),
        students=["mlp"],
        teacher=config.teacher,
    )
    made = DistilledSet.load(config.output_folder / "sets" / f"ddoq_sqrt_ipc3_k{row['clusters']}_seed1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = evaluator.evaluate(made, "mlp", 1)
    finally:
        torch.set_num_threads(threads)
    assert (alone["top1"], alone["val_top1"]) == (row["top1"], row["val_top1"])


def check_more_seeds_keep_the_rows(small_sweep, before):
    result = sweep(small_sweep, progress=False, seeds=[0, 1, 2], full_data=False, methods=["random"])
    kept = {name: state for name, state in state_of(result.folder).items() if name in before}
    assert kept == {name: before[name] for name in kept} and len(kept) == 4
    assert len(result.frame) == 6
    back = sweep(small_sweep, progress=False)  # rows that the smaller config set aside come back
    assert {name: state for name, state in state_of(back.folder).items()} == before


def wait_for_rows(folder, count, process, limit=240):
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        if len(list((folder / "rows").glob("*.json"))) >= count:
            return
        assert process.poll() is None, "the sweep ended before it could be killed"
        time.sleep(0.02)
    raise AssertionError(f"no {count} rows within {limit} s")


def test_killed_sweep_continues_where_it_was(small_sweep, tmp_path):
    log = open(tmp_path / "log", "w")
    process = subprocess.Popen(
        [sys.executable, "-m", "ddoq_plugin.cli", "sweep", str(small_sweep)],
        stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    folder = tmp_path / "run"
    try:
        wait_for_rows(folder, 5, process)
    finally:
        family = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGKILL)
        for member in family:  # Ray's daemons lead groups of their own
            try:
                member.kill()
            except psutil.NoSuchProcess:
                continue
        process.wait()
        log.close()
    before = state_of(folder)
    assert 5 <= len(before) < ROWS, "it was not killed half way"
    assert {row["status"] for row in rows_of(folder).values()} == {"done"}
    resumed = run_cli("sweep", small_sweep)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    after = state_of(folder)
    assert len(after) == ROWS
    assert {name: after[name] for name in before} == before, "a finished row was touched"
    assert "ddoq sqrt" in resumed.stdout and (folder / "RESULTS.md").is_file()
    assert (folder / "tables" / "accuracy.tex").is_file() and (folder / "tables" / "rows.parquet").is_file()


def test_two_sweeps_in_one_folder_and_a_folder_that_cannot_be_written(small_sweep, tmp_path):
    from filelock import FileLock

    from ddoq_plugin.errors import ConfigError, StoreError

    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"), pytest.raises(ConfigError, match="another sweep is at work"):
        sweep(small_sweep, progress=False)
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="cannot be made"):
        sweep(small_sweep, progress=False, output=str(tmp_path / "file" / "run"), store=str(tmp_path / "store"))


def test_a_cluster_that_is_not_there_is_said_at_once(small_sweep):
    from ddoq_plugin.errors import DDOQError

    with pytest.raises(DDOQError, match="no Ray cluster answers at 127.0.0.1:9"):
        sweep(small_sweep, progress=False, address="127.0.0.1:9")  # the port of "discard", which nobody serves


def test_failure_inside_a_training_becomes_its_rows(small_sweep, tmp_path):
    config = load_config(small_sweep)
    trial = Trial(None, "full_data", "mlp", 0, ("a", "b"))
    text = config.model_copy(update={"protocol": str(tmp_path / "missing.yaml")}).model_dump_json()
    threads = torch.get_num_threads()
    try:
        session = functools.partial(open_session, text, "train")
        train_trial(session, trial, {"a": {"label": "x"}, "b": {"label": "y"}}, tmp_path / "rows")
    finally:
        torch.set_num_threads(threads)
    rows = rows_of(tmp_path)
    assert [row["status"] for row in rows.values()] == ["failed", "failed"]
    assert "missing.yaml" in rows["a.json"]["error"] and rows["b.json"]["label"] == "y"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["students=[convnet33]"], "unknown student 'convnet33'; did you mean"),
        (["ipc=[13]"], "class 'zero' has 1"),
        (["clusters=[500]"], "needs 500 clusters"),
        (["dataset={name: folder, path: nowhere}"], "nowhere"),
        (["dataset={name: digitz}"], "did you mean 'digits'"),
        (["protocol=soft_stored_shrt"], "did you mean 'soft_stored_short'"),
        (["teacher=null"], "teacher"),
        (["prior={name: dit, path: nowhere}"], "nowhere"),
        (["prior={name: dit, train: digitz}"], "digits"),
        (["prior=null"], "needs a prior"),
        (["methods=[{name: ddoq}]"], "cannot denoise"),
        (["prior={name: dit, train: small32}"], "32 pixels"),
        (["teacher={student: mlp, weights: nowhere.pt}"], "nowhere.pt"),
        (["teacher={student: mlp, protocol: hard_minimax, sed: 1}"], "did you mean 'seed'"),
        (["resources={device: cuda:99}"], "CUDA"),
        (["resources={device: cpu, cpu: 1}"], "unknown key 'resources.cpu'; did you mean 'cpus'"),
    ],
)
def test_bad_input_is_one_clear_error_before_any_work(small_sweep, tmp_path, changes, message):
    from ddoq_plugin.errors import DDOQError
    from ddoq_plugin.yaml_files import parse_value

    overrides = {key: parse_value(value) for key, value in (change.split("=", 1) for change in changes)}
    with pytest.raises(DDOQError) as caught:
        sweep(small_sweep, progress=False, **overrides)
    assert message in str(caught.value) and "\n" not in str(caught.value), caught.value
    assert not (tmp_path / "run").exists() and not (tmp_path / "store").exists()


def test_corrupt_image_is_found_before_any_work(small_sweep, tmp_path):
    import numpy as np
    from PIL import Image

    for part in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for number in range(6):
                Image.fromarray(np.full((16, 16, 3), 9 * number, np.uint8)).save(folder / f"{number}.png")
    broken = tmp_path / "images" / "train" / "dog" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    dataset = f"dataset={{name: folder, path: {tmp_path / 'images'}, image_size: 16}}"
    run = run_cli("sweep", small_sweep, "--set", dataset)
    assert run.returncode == 2 and run.stdout == ""
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and "3.png" in last and "Traceback" not in run.stderr
    assert not Path(tmp_path / "run").exists()
