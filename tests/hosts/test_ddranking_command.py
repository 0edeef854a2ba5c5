from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from host_helpers import first_images, tiny_data, tiny_settings
from typer.testing import CliRunner

from ddoq_plugin.errors import ConfigError, DataError, EvaluationError
from ddoq_plugin.hosts import command


@pytest.fixture
def call(tmp_path):
    """Return a function that runs the command on a small set of a small dataset."""
    data = tiny_data()
    pack = {}
    for part, split in (("train", data.train), ("test", data.test)):
        pack |= {f"x_{part}": split.images().permute(0, 2, 3, 1).numpy(), f"y_{part}": split.labels.numpy()}
    np.savez(tmp_path / "tiny.npz", class_names=np.array(data.class_names), **pack)
    first_images(data, weights=[0.5, 1.0, 1.5]).save(tmp_path / "set")
    chosen = tiny_settings(tmp_path)
    app = typer.Typer()
    command.register(app)

    def run(*arguments: str):
        short = ["--set", f"protocol={chosen.protocol}", "--set", f"teacher_protocol={chosen.teacher_protocol}"]
        short += ["--set", "learning_rates=[0.005]", "--set", "evaluations=1", "--data", f"npz:{tmp_path / 'tiny.npz'}"]
        place = ["--work", str(tmp_path / "work"), "--csv", str(tmp_path / "rows.csv")]
        result = CliRunner().invoke(app, [str(tmp_path / "set"), *short, *place, *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result, tmp_path / "rows.csv"

    return run


def test_our_own_evaluation_needs_no_extra_and_writes_its_rows(call):
    result, csv = call("--evaluator", "own", "--student", "mlp", "--metric", "lrs", "--metric", "ars")
    assert result.exit_code == 0, result.output
    rows = pd.read_csv(csv)
    assert rows["weights"].tolist() == ["ignored", "loss"] and rows["label"].tolist() == ["set", "set"]
    assert rows[["lrs", "ars"]].notna().all().all()
    assert f"{rows['lrs'][0]:.3f}" in result.output and "for_tests" in result.output


def test_a_missing_or_foreign_host_is_one_sentence_with_the_mend(call, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(EvaluationError, match=r"not installed; .*pip install 'ddoq-plugin\[ddranking\]'"):
        call()
    with pytest.raises(EvaluationError, match="not installed"):  # one of its architectures in our own evaluation
        call("--evaluator", "own", "--student", "ConvNet-3")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.3.0")
    with pytest.raises(EvaluationError, match="ddranking 0.3.0 is installed.*pip install ddranking==0.2.0"):
        call()


def test_mistakes_on_the_command_line_are_named(call, tmp_path):
    with pytest.raises(EvaluationError, match="no evaluator 'ours'"):
        call("--evaluator", "ours")
    with pytest.raises(ConfigError, match="no preset 'shrot'"):
        call("--preset", "shrot")
    with pytest.raises(DataError, match="needs the folder of its files"):
        call("--data", "ddranking:CIFAR10")


def test_sets_are_called_by_their_folders_names_and_links_by_their_own(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name / "set").mkdir(parents=True)
    (tmp_path / "ddoq_ipc10").symlink_to(tmp_path / "a" / "set")
    assert command._labels([tmp_path / "ddoq_ipc10", tmp_path / "a"]) == ["ddoq_ipc10", "a"]
    same = [tmp_path / "a" / "set", tmp_path / "b" / "set"]
    assert command._labels(same) == [str(path) for path in same]
    monkeypatch.chdir(tmp_path / "a")
    assert command._labels([Path(".")]) == ["a"]


def test_the_command_line_module_loads_nothing_heavy():
    code = (
        "import sys, ddoq_plugin.hosts.command; "
        "print([name for name in ('torch', 'pandas', 'ddranking', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
