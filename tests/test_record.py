"""What a result row is: its columns, its one maker, its files, and who may name a method."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ddoq_plugin
from ddoq_plugin import DistilledSet
from ddoq_plugin.config import PriorConfig
from ddoq_plugin.errors import EvaluationError
from ddoq_plugin.record import (
    BY_NAME,
    COLUMNS,
    GROUPS,
    column_of,
    cost_columns,
    documentation,
    failure,
    make_row,
    modern,
    read_row,
    write_row,
)
from ddoq_plugin.registry import DISTILLERS
from ddoq_plugin.store.metering import Cost

PACKAGE = Path(ddoq_plugin.__file__).parent
KNOWN = {"student": "mlp", "seed": 0, "dataset": "digits", "commit": "abc"}


def a_set(weights=None, **about):
    provenance = {"method": "m", "label": "m x", "clusters": 5, "prior": "dit digits", "prior_fingerprint": "0" * 12}
    return DistilledSet(
        torch.zeros(4, 3, 2, 2, dtype=torch.uint8),
        torch.tensor([0, 0, 1, 1]),
        ("a", "b"),
        weights=weights,
        provenance=provenance | about,
    )


def test_every_column_is_declared_once_with_a_type_and_a_meaning():
    assert len({column.name for column in COLUMNS}) == len(COLUMNS)
    for column in COLUMNS:
        assert column.dtype in ("string", "Int64", "float64", "boolean", "value") and column.group in GROUPS
        assert column.meaning and "\n" not in column.meaning and "|" not in column.meaning


def test_the_page_of_columns_is_that_of_the_code():
    page = (PACKAGE.parent / "docs" / "columns.md").read_text(encoding="utf-8")
    assert page == documentation() + "\n", "run python -m ddoq_plugin.record > docs/columns.md"


def test_declaring_columns_is_light():
    code = "import sys, ddoq_plugin.record; print([m for m in ('torch', 'pandas', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_row_has_every_column_and_the_members_of_its_families():
    settings = {"strength": 0.7, "sizes": [1, 2], "inner": {"name": "x", "strength": 0.3}, "none": None}
    stats = {"w2_used": 1.5, "space": "latent", "loss": torch.tensor(0.25), "curve": [1, 2]}
    cost = {"latents": {"seconds": 2.0, "images": 8}, "features": {"seconds": 1.0}}
    made = a_set(torch.tensor([0.5, 1.5, 1.0, 1.0]), settings=settings, stats=stats, cost=cost)
    row = make_row(KNOWN, made, {"top1": 90.0, **cost_columns("train", Cost(seconds=3.0))})
    assert set(BY_NAME) <= set(row) and all(column_of(name) for name in row)
    wanted = {
        "method": "m", "label": "m x", "ipc": 2, "clusters": 5, "prior": "dit digits", "prior_fingerprint": "0" * 12,
        "weighted": True, "set_strength": 0.7, "set_sizes": "[1,2]", "set_inner_name": "x", "set_inner_strength": 0.3,
        "w2_used": 1.5, "space": "latent", "method_loss": 0.25, "method_curve": "[1,2]", "top5": None,
        "seconds_latents": 2.0, "images_per_second_latents": 4.0, "seconds_features": 1.0, "seconds_distill": 3.0,
        "images_per_second_distill": 4 / 3, "seconds_own": None, "seconds_train": 3.0, "status": "done",
        "set_hash": made.hash, "image_hash": made.image_hash, "commit": "abc",
    }  # fmt: skip
    assert {name: row[name] for name in wanted} == wanted
    assert "settings" not in row and json.loads(json.dumps(row)) == row
    assert make_row(KNOWN, a_set())["weighted"] is False


def test_measured_costs_of_making_a_set_are_taken_as_they_are():
    cost = {"latents": {"seconds": 2.0}, "distill": {"seconds": 9.0, "images": 4}, "own": {"seconds": 6.5}}
    row = make_row(KNOWN, a_set(cost=cost))
    assert (row["seconds_distill"], row["seconds_own"], row["seconds_latents"]) == (9.0, 6.5, 2.0)


def test_what_is_known_goes_before_what_the_set_tells():
    row = make_row({**KNOWN, "label": "other", "clusters": None, "settings": {"a": 1}}, a_set(settings={"b": 2}))
    assert (row["label"], row["clusters"], row["set_a"], "set_b" in row) == ("other", None, 1, False)


def test_undeclared_columns_and_settings_that_take_a_name_are_errors():
    with pytest.raises(EvaluationError, match="'topp1' is no column of a row"):
        make_row({**KNOWN, "topp1": 3})
    with pytest.raises(EvaluationError, match="the setting 'hash' would be the column 'set_hash'"):
        make_row({**KNOWN, "settings": {"hash": 3}})


def test_a_prior_is_named_without_the_folders_of_a_machine():
    named = [PriorConfig(name="dit", train="digits"), PriorConfig(name="dit", path="/some/where/dit-256"),
             PriorConfig(name="stable_diffusion", path="owner/model"), PriorConfig(name="pixel")]  # fmt: skip
    assert [one.title for one in named] == ["dit digits", "dit dit-256", "stable_diffusion model", "pixel"]
    old = make_row(KNOWN, a_set(prior="dit 4af31c000000", prior_fingerprint=None))
    assert (old["prior"], old["prior_fingerprint"]) == ("dit", "4af31c000000")


def test_a_written_row_is_read_back_and_a_missing_one_is_none(tmp_path, recwarn):
    write_row(tmp_path, "k", make_row({**KNOWN, "key": "k"}, a_set(), {"top1": 1 / 3}))
    row = read_row(tmp_path, "k")
    assert row["top1"] == 1 / 3 and row["key"] == "k" and len(row["digest"]) == 64
    assert read_row(tmp_path, "other") is None and not recwarn.list


def edited(row):
    return row | {"top1": 99.0}


def without(name):
    return lambda row: {key: value for key, value in row.items() if key != name}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (edited, "was edited"), (without("digest"), "no column 'digest'"), (without("label"), "no column 'label'"),
        (without("top5"), "was edited"), (lambda row: [row], "is no row"), (lambda row: "half", "is no row"),
    ],
)  # fmt: skip
def test_a_row_that_was_edited_or_lacks_a_column_is_named_and_trained_again(tmp_path, change, said):
    write_row(tmp_path, "k", make_row(KNOWN, a_set(), {"top1": 50.0}))
    file = tmp_path / "k.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.warns(UserWarning, match=rf"k\.json .*{said}.*: it is trained again"):
        assert read_row(tmp_path, "k") is None


def test_a_row_under_another_name_is_no_row_of_that_name(tmp_path):
    write_row(tmp_path, "k", make_row(KNOWN, a_set()))
    (tmp_path / "k.json").rename(tmp_path / "other.json")
    with pytest.warns(UserWarning, match="row of another key"):
        assert read_row(tmp_path, "other") is None


def test_a_failure_is_a_row():
    row = make_row({**KNOWN, "method": "m"}, None, failure(ValueError("a bug")))
    assert (row["status"], row["error"], row["set_hash"]) == ("failed", "ValueError: a bug", None)


def test_columns_of_a_kind_of_cost():
    columns = cost_columns("label", Cost(seconds=2.0, images=10, device="cpu", peak_memory_mb=3.0))
    expected = {"seconds": 2.0, "images_per_second": 5.0, "peak_memory_mb": 3.0, "device": "cpu"}
    assert columns == {f"{name}_label": value for name, value in expected.items()}
    assert set(cost_columns("label", None).values()) == {None}
    assert cost_columns("label", Cost(seconds=0.0, images=10))["images_per_second_label"] is None


def test_rows_of_earlier_versions_are_read_under_the_names_of_today():
    old = {"device": "cpu", "peak_memory_mb": 3.0, "weighting": "sqrt", "prior": "dit /a/b/dit-256",
           "settings": '{"strength": 0.7, "masses": "voronoi"}', "seconds_distill": 5.0, "seconds_latents": 3.0,
           "peak_memory_mb_train": None}  # fmt: skip
    row = modern(old)
    wanted = {"device_train": "cpu", "peak_memory_mb_train": 3.0, "weighted": True, "prior": "dit dit-256",
              "set_strength": 0.7, "set_masses": "voronoi", "seconds_own": 2.0}  # fmt: skip
    assert {name: row[name] for name in wanted} == wanted
    assert not {"device", "peak_memory_mb", "settings", "weighting"} & set(row)
    assert modern(row) == row


@pytest.mark.parametrize("room", ["report", "planning", "sweeps"])
def test_no_method_is_named_or_imported(room):
    names, found = set(DISTILLERS.names()), []
    for file in sorted((PACKAGE / room).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and node.value in names:
                found.append(f"{file.name}:{node.lineno}: {node.value!r}")
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                base = "." * getattr(node, "level", 0) + (getattr(node, "module", "") or "")
                imported = [base, *(f"{base.rstrip('.')}.{one.name}" for one in node.names)]
                wrong = [one for one in imported if one.endswith(".ddoq") or "ddoq_baselines" in one]
                found += [f"{file.name}:{node.lineno}: imports {one}" for one in wrong]
    assert not found
