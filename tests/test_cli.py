from __future__ import annotations

import json
import subprocess
import sys
import warnings

import pytest
import torch

from ddoq_plugin import DistilledSet


def ddoq(*arguments, **options):
    command = [sys.executable, "-m", "ddoq_plugin.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)


def test_list_shows_everything_and_a_plugin_that_was_asked_for_must_load(tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_like_it")
    run = ddoq("list", "--plugin", broken)
    assert run.returncode == 2 and "broken.py does not load" in run.stderr and "nothing_like_it" in run.stderr
    run = ddoq("list")
    assert run.returncode == 0, run.stderr
    for name in ("d4m", "fashion_mnist", "stable_diffusion", "vit_tiny", "soft_stored_sre2l", "quickstart"):
        assert name in run.stdout, name
    assert "needs_prior" in run.stdout and "NOT IMPORTED" not in run.stdout


def test_distill_and_evaluate(tmp_path):
    store = ["--store", tmp_path / "store"]
    small = ["--data", "digits", "--data-option", "limit_per_class=20", *store]
    made = ddoq("distill", "k_medoids", tmp_path / "set", "--ipc", 3, "--clusters", 5, *small)
    assert made.returncode == 0, made.stderr
    assert "30 images of 10 classes" in made.stdout
    read = DistilledSet.load(tmp_path / "set")
    assert read.provenance["settings"]["clustering"] == "lloyd" and read.provenance["clusters"] == 5
    protocol = tmp_path / "protocol.yaml"
    protocol.write_text(
        "name: tiny\nsource: made for the tests, says nothing\nlabel_mode: hard\nloss: {name: cross_entropy}\n"
        "optimizer: {name: sgd, lr: 0.01}\nsteps: 20\nbatch_size: 10\n"
    )
    rows = tmp_path / "rows.csv"
    scored = ddoq(
        "evaluate", tmp_path / "set", *small, "--student", "mlp", "--student", "lenet", "--protocol", protocol,
        "--seeds", 2, "--csv", rows,
    )  # fmt: skip
    assert scored.returncode == 0, scored.stderr
    assert "k_medoids" in scored.stdout and "mlp" in scored.stdout and "lenet" in scored.stdout
    assert len(rows.read_text().splitlines()) == 5
    reported = ddoq("report", rows, "--out", tmp_path / "RESULTS.md")
    assert reported.returncode == 0, reported.stderr
    assert "| k_medoids | 3 | 5 |" in (tmp_path / "RESULTS.md").read_text()


def test_evaluate_takes_a_folder_of_images_of_any_method(tmp_path):
    import numpy as np
    from PIL import Image

    for number in range(10):
        (tmp_path / "set" / str(number)).mkdir(parents=True)
        Image.fromarray(np.full((20, 20, 3), 20 * number, np.uint8)).save(tmp_path / "set" / str(number) / "a.png")
    options = ["--student", "mlp", "--protocol", "hard_short", "--store", tmp_path / "store"]
    run = ddoq("evaluate", tmp_path / "set", *options)
    assert run.returncode == 0, run.stderr
    assert "folder" in run.stdout and "mlp" in run.stdout and "no teacher" in run.stdout


def test_evaluate_in_python_says_what_it_used(tmp_path):
    from ddoq_plugin import distill, evaluate

    store = tmp_path / "store"
    made = distill("k_medoids", dataset="digits", prior="pixel", ipc=1, store=store, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        frame = evaluate(
            made,
            dataset="digits",
            students="mlp",
            protocol="soft_stored_short",
            teacher="mlp",
            store=store,
            progress=False,
        )
    other = {"name": "digits", "val_fraction": 0.3}
    with pytest.warns(UserWarning, match="made from another form of 'digits'"):
        evaluate(made, dataset=other, students="mlp", protocol="hard_short", store=store, progress=False)
    (row,) = frame.to_dict("records")
    assert (row["method"], row["ipc"], row["student"], row["seed"]) == ("k_medoids", 1, "mlp", 0)
    assert row["prior"] == "pixel" and len(row["prior_fingerprint"]) == 12 and row["set_clustering"] == "lloyd"
    assert row["w2_used"] > 0 and row["image_hash"] == made.image_hash and not row["weighted"]
    assert row["seconds_train"] > 0 and row["device_train"] == "cpu" and len(row["digest"]) == 64
    assert 50 < row["teacher_test_top1"] <= 100
    assert 0 <= row["top1"] <= row["top5"] <= 100 and row["seconds_label"] > 0 and row["set_hash"] == made.hash


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["distill", "ddok", "out", "--ipc", "1"], "unknown distiller 'ddok'; did you mean 'ddoq'"),
        (["distill", "ddoq", "out", "--ipc", "1"], "needs a prior"),
        (["distill", "random", "out", "--ipc", "1000"], "needs 1000 images"),
        (["distill", "random", "out", "--ipc", "1", "--set", "wieght=1"], "unknown setting 'wieght'"),
        (["distill", "random", "out", "--ipc", "1", "--data", "folder:nowhere"], "nowhere"),
        (["distill", "random", "out", "--ipc", "1", "--data-option", "image_sise=8"], "did you mean 'image_size'"),
        (["evaluate", "nowhere"], "there is no folder nowhere"),
        (["sweep", "quikstart"], "did you mean 'quickstart'"),
        (["plan", "quikstart"], "did you mean 'quickstart'"),
        (["plan", "imagenette_dit", "--device", "h200", "--set", "dataset.root=nowhere"], "the folder nowhere"),
        (["plan", "quickstart", "--device", "h20"], "did you mean 'h200'"),
        (["plan", "quickstart", "--disk", "much"], "'much' is no size"),
        (["report", "nowhere"], "nowhere"),
        (["train-prior", "out", "--recipe", "digitz"], "digits"),
        (["list", "--plugin", "nowhere.py"], "does not exist"),
    ],
)
def test_mistakes_are_one_line_and_exit_status_2(tmp_path, arguments, message):
    run = ddoq(*arguments, cwd=tmp_path)
    assert run.returncode == 2 and run.stdout == ""
    assert run.stderr.startswith("error: ") and message in run.stderr, run.stderr
    assert len(run.stderr.strip().splitlines()) == 1, run.stderr
    assert not (tmp_path / "out").exists()


def test_existing_set_is_not_overwritten(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("precious")
    run = ddoq("distill", "random", tmp_path / "set", "--ipc", 1)
    assert run.returncode == 2 and "not empty" in run.stderr
    assert (tmp_path / "set" / "mine.txt").read_text() == "precious"


def test_set_on_disk_carries_its_provenance(tmp_path):
    run = ddoq("distill", "random", tmp_path / "set", "--ipc", 2, "--seed", 5, "--store", tmp_path / "store")
    assert run.returncode == 0, run.stderr
    about = json.loads((tmp_path / "set" / "provenance.json").read_text())["provenance"]
    assert (about["method"], about["ipc"], about["seed"], about["dataset"]) == ("random", 2, 5, "digits")
    assert torch.equal(DistilledSet.load(tmp_path / "set").labels, torch.arange(10).repeat_interleave(2))


def test_plan_says_what_a_sweep_costs_before_anything_runs(tmp_path):
    run = ddoq("plan", "quickstart", "--set", f"output={tmp_path / 'run'}", "--format", "json")
    assert run.returncode == 0, run.stderr
    plan = json.loads(run.stdout)
    assert plan["rows"] == 384 and plan["hours"] > 0 and plan["refused"] == []
    assert [stage["stage"] for stage in plan["stages"]][:2] == ["check", "train prior"]
    assert not list(tmp_path.iterdir())


def test_plan_shows_the_table_and_refuses_with_each_reason_and_its_mend():
    asked = ["plan", "imagenet1k_sd15", "--assume-dataset", "--device", "a100", "--disk", "1TB", "--format", "md"]
    run = ddoq(*asked)
    assert run.returncode == 2
    assert "| train |" in run.stdout and "| total |" in run.stdout
    reasons = run.stderr.strip().splitlines()
    assert len(reasons) == 3 and all(reason.startswith("error: ") for reason in reasons), reasons
    assert "--set teacher.weights=" in reasons[0] and "80 GB" in reasons[1] and "set store: to a larger" in reasons[2]
    assert ddoq("plan", "imagenet1k_dit", *asked[2:5], "--assume-weights", "--disk", "9TB").returncode == 0
