"""Sets that are there already: their key follows their files, and what does not fit is said before any work."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ddoq_baselines.given_set import GivenSet
from ddoq_baselines.random_selection import RandomSelection
from PIL import Image

from ddoq_plugin.config import load_config
from ddoq_plugin.data import load_data
from ddoq_plugin.distiller import DistillContext
from ddoq_plugin.errors import ConfigError, DDOQError, DistillError
from ddoq_plugin.planning import make_plan
from ddoq_plugin.report import load_rows
from ddoq_plugin.store.artifacts import Store
from ddoq_plugin.sweeps import sweep


@pytest.fixture
def context(tmp_path):
    return DistillContext(load_data("digits", limit_per_class=6), store=Store(tmp_path / "store"))


def test_a_changed_set_is_another_set(tmp_path, context):
    made = RandomSelection().distill(context, 2)
    method = GivenSet(path=str(made.save(tmp_path / "set")))
    first = context.distilled(method, 2)
    assert torch.equal(first.images, made.images) and first.provenance["stats"]["of_method"] == "random"
    picture = next((tmp_path / "set" / "train").rglob("*.png"))
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(picture)
    assert not torch.equal(context.distilled(method, 2).images, made.images)


def test_all_that_a_set_carries_is_kept(tmp_path, context):
    from dataclasses import replace

    made = RandomSelection().distill(context, 2)
    targets = torch.randn(20, 10, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([0.5, 1.5] * 10)
    whole = replace(
        made, weights=weights, targets=targets, learning_rate=0.02, mosaic=2, stage=torch.tensor([0, 1] * 10)
    )
    whole.save(tmp_path / "set")
    got = GivenSet(path=str(tmp_path / "set")).distill(context, 2)
    assert got.hash == whole.hash and got.learning_rate == 0.02 and got.mosaic == 2


def test_what_does_not_fit_is_said_before_any_work(tmp_path, context):
    made = RandomSelection().distill(context, 2)
    made.save(tmp_path / "set_2")

    def refused(kind, message, path, ipc=2):
        with pytest.raises(kind, match=message):
            GivenSet(path=str(path)).check(context, ipc, None)

    refused(DistillError, "has 2 images a class and IPC is 3; put .ipc. into path, or set ipc", tmp_path / "set_2", 3)
    refused(DistillError, "there is no folder .*set_3", tmp_path / "set_{ipc}", 3)
    GivenSet(path=str(tmp_path / "set_{ipc}")).check(context, 2, None)
    (tmp_path / "empty").mkdir()
    refused(DDOQError, "empty", tmp_path / "empty")
    with pytest.raises(ConfigError, match="path"):
        GivenSet()


def test_a_sweep_scores_it_beside_others(tmp_path, small_sweep):
    context = DistillContext(load_data("digits", limit_per_class=6))
    for ipc in (1, 2):
        RandomSelection().distill(context, ipc, seed=5).save(tmp_path / "sets" / str(ipc))
    methods = [{"name": "set", "path": str(tmp_path / "sets" / "{ipc}")}, {"name": "random"}]
    more = {"methods": methods, "ipc": [1, 2], "seeds": 1, "full_data": False}
    config = load_config(small_sweep, more)
    assert any(stage.name == "sets" for stage in make_plan(config).stages)
    sweep(config, progress=False, local=True)
    rows = load_rows(config.output_folder)
    assert sorted(zip(rows["method"], rows["ipc"], strict=True)) == [
        ("random", 1),
        ("random", 2),
        ("set", 1),
        ("set", 2),
    ]
    assert (rows["status"] == "done").all()
    with pytest.raises(DDOQError, match="there is no folder.*sets/3"):
        sweep(load_config(small_sweep, {**more, "ipc": [1, 3]}), progress=False, local=True)
