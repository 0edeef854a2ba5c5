"""Configs that cannot be meant: each is one sentence, at once."""

from __future__ import annotations

import time

import pytest

from ddoq_plugin.config import load_config
from ddoq_plugin.errors import ConfigError
from ddoq_plugin.evaluation import load_protocol
from ddoq_plugin.sweeps.grid import make_grid

TEXT = """\
name: small
dataset: digits
methods: [random]
ipc: [1]
students: [mlp]
protocol: hard_short
seeds: 2
{more}
"""
LAUGHS = "notes:\n" + "".join(f"  a{n}: &a{n} [{', '.join(['x' if n == 0 else f'*a{n - 1}'] * 9)}]\n" for n in range(9))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (LAUGHS, "more than 100,000 values"),
        ("resources: &a {cpus: *a}", "nested too deep, or hold themselves"),
        (f"notes: {'[' * 3000}", "nested too deep"),
        ("notes: " + "x" * (1 << 20), "more than 1,048,576 bytes"),
        ("1: x", "1"),
        ("null: x", "keys|unknown"),
        ("notes: 2024-99-99", "cannot be read|valid string"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_at_once(tmp_path, more, message):
    path = tmp_path / "x.yaml"
    path.write_text(TEXT.format(more=more))
    begun = time.monotonic()
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert time.monotonic() - begun < 10 and "\n" not in str(caught.value) and "x.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ipc", True), ("ipc", "1"), ("ipc", [1, "2"]), ("ipc", 10**7), ("ipc", []), ("clusters", []), ("clusters", 0),
        ("seeds", 10**6), ("seeds", 10**10), ("seeds", [-1]), ("seeds", [2**70]), ("seeds", 0), ("seeds", True),
        ("resources.cpus", float("inf")), ("resources.cpus", float("nan")), ("resources.gpus", -1),
        ("name", ".."), ("name", "."), ("name", "a/b"), ("name", "x" * 200), ("students", []),
        ("prior", {"name": "dit", "seed": -1}), ("methods", []), ("methods", [{"name": "random", "label": "../x"}]),
        ("methods", [{"name": "random", "clusters": []}]),
    ],
)  # fmt: skip
def test_values_have_bounds(tmp_path, key, value):
    path = tmp_path / "x.yaml"
    path.write_text(TEXT.format(more=""))
    with pytest.raises(ConfigError) as caught:
        load_config(path, {key: value})
    assert "\n" not in str(caught.value) and key.split(".")[0] in str(caught.value)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("ddoq", {"steps": 10**9}), ("ddoq", {"guidance_scale": float("inf")}), ("ddoq", {"strength": True}),
        ("ddoq", {"strength": "1"}), ("ddoq", {"alpha": float("nan"), "weighting": "power"}),
        ("ddoq", {"km_expand": 0}), ("dm", {"iterations": 0}), ("random", {"stored_size": 10**6}),
    ],
)  # fmt: skip
def test_settings_have_bounds(tmp_path, name, setting):
    path = tmp_path / "x.yaml"
    path.write_text(TEXT.format(more=""))
    with pytest.raises(ConfigError, match=next(iter(setting))):
        make_grid(load_config(path, {"methods": [{"name": name, **setting}]}))


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 0}, {"batch_size": "20"}, {"steps": True}, {"steps": 10**10}, {"accumulation": 10**6},
        {"augmentation": {"scale": [2, 1]}}, {"augmentation": {"scale": [0.5, 2]}}, {"augmentation": {"ratio": [0, 1]}},
        {"optimizer": {"lr": float("inf")}}, {"loss": {"temperature": float("nan")}}, {"image_size": 10**6},
    ],
)  # fmt: skip
def test_protocols_have_bounds(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        load_protocol({"extends": "hard_short", **change})


def test_a_number_may_be_written_as_yaml_reads_it_not():
    assert load_protocol({"extends": "hard_short", "optimizer": {"lr": "1e-3"}}).optimizer.lr == 0.001


def test_a_teacher_learns_from_class_labels(small_sweep):
    from ddoq_plugin.sweeps import sweep

    with pytest.raises(ConfigError, match="teacher's protocol 'soft_stored_short' has label_mode 'soft_stored'"):
        sweep(load_config(small_sweep, {"teacher.protocol": "soft_stored_short"}), local=True, progress=False)
