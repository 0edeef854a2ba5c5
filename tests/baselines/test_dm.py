"""DM: its step equals the authors', it continues after a kill, a plan prices it, its row says what it cost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from ddoq_baselines.dm import DM
from ddoq_baselines.engine import losses
from ddoq_baselines.engine.losses import mean_distance
from ddoq_baselines.engine.networks import FlatNetwork
from ddoq_baselines.engine.pixels import Pixels
from published import WIDE, Values, near

from ddoq_plugin.config import load_config
from ddoq_plugin.data import load_data
from ddoq_plugin.distiller import DistillContext
from ddoq_plugin.errors import DistillError
from ddoq_plugin.planning import make_plan
from ddoq_plugin.report import load_rows
from ddoq_plugin.store.artifacts import Store
from ddoq_plugin.store.checkpoints import load_checkpoint
from ddoq_plugin.sweeps import sweep

QUICK = {"iterations": 5, "network": "convnet3_w32", "batch": 8}


def test_a_step_of_the_images_equals_the_published_one():
    values = Values("dm_step")
    network, images = FlatNetwork(values.module()), values["images"].requires_grad_()
    sides = (images, values["real"].flatten(0, 1))
    made, target = (network.features_and_logits(network.vector(), side)[0].unflatten(0, (3, -1)) for side in sides)
    loss = mean_distance(target, made)
    assert float(loss.detach()) == pytest.approx(float(values["loss"]), rel=1e-9)
    near(torch.autograd.grad(loss, images)[0], values["grad_images"])
    pixels = Pixels(WIDE.undo(images.detach()), WIDE, lr=float(values["lr_img"]), momentum=float(values["momentum"]))
    pixels.step(values["grad_images"])
    near(pixels.seen().detach(), values["images_after"])


def test_images_come_nearer_to_the_features_of_their_class():
    context = DistillContext(load_data("digits", limit_per_class=30))
    made = DM(iterations=25, network="convnet3_w32", batch=30, init="noise").distill(context, 1)
    stats = made.provenance["stats"]
    assert stats["loss_last"] < 0.7 * stats["loss_first"]
    assert made.images.float().std() > 10 and made.floats is None


def test_its_rate_is_for_2048_features(monkeypatch):
    """A network of 128 features (convnet3 of width 32 at 16 pixels) takes 16 times the rate."""
    taken = []
    monkeypatch.setattr(Pixels, "step", lambda self, gradient, lr: taken.append(lr))
    context = DistillContext(load_data("digits", limit_per_class=5))
    DM(**QUICK | {"lr": 0.5, "iterations": 1}).distill(context, 1)
    assert taken == [0.5 * 2048 / 128]


def test_a_loss_that_is_no_number_is_one_clear_error(monkeypatch):
    context = DistillContext(load_data("digits", limit_per_class=5))
    monkeypatch.setattr(losses, "mean_distance", lambda real, made, weights: made.sum() * float("nan"))
    with pytest.raises(DistillError, match="'dm'.*diverged.*at step 0; lower lr"):
        DM(**QUICK).distill(context, 1)


SLOWLY = """\
import sys
from ddoq_baselines.dm import DM
from ddoq_plugin.data import load_data
from ddoq_plugin.distiller import DistillContext, core
from ddoq_plugin.store.artifacts import Store
from ddoq_plugin.store.checkpoints import load_checkpoint
import torch
torch.set_num_threads(1)
core.CHECKPOINT_SECONDS = 0.0
context = DistillContext(load_data("digits", limit_per_class=10), store=Store(sys.argv[1]))
made = context.distilled(DM(iterations=150, network="convnet3_w32", batch=8), 1)
print(made.hash, made.provenance["cost"]["own"]["seconds"])
"""


def test_killed_in_its_middle_it_ends_with_the_same_set(tmp_path):
    def start(store):
        return subprocess.Popen([sys.executable, "-c", SLOWLY, str(store)], stdout=subprocess.PIPE, text=True)

    whole, _ = start(tmp_path / "whole").communicate(timeout=300)
    killed = start(tmp_path / "killed")
    deadline = time.monotonic() + 200
    while not list((tmp_path / "killed").rglob("*.checkpoint")):
        assert killed.poll() is None and time.monotonic() < deadline, "it made no checkpoint"
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    (left,) = (tmp_path / "killed").rglob("*.checkpoint")
    done = load_checkpoint(left)["step"]
    assert 0 < done < 150, "it was not half way"
    again, _ = start(tmp_path / "killed").communicate(timeout=300)
    assert again.split()[0] == whole.split()[0]
    assert not list((tmp_path / "killed").rglob("*.checkpoint")), "a finished set keeps no checkpoint"


def test_a_plan_prices_it_and_its_row_says_what_it_took(small_sweep):
    by_ipc = {"name": "dm", **QUICK, "iterations": {1: 5, 10: 9}}  # names in YAML are numbers; keys have texts
    config = load_config(small_sweep, {"methods": [by_ipc], "ipc": 1, "seeds": 1, "full_data": False})
    plan = make_plan(config)
    (stage,) = [stage for stage in plan.stages if stage.name == "sets"]
    assert stage.hours > 0
    longer = {"methods": [{"name": "dm", **QUICK, "iterations": 5000}]}
    longer = make_plan(load_config(small_sweep, {"ipc": 1, "seeds": 1, "full_data": False} | longer))
    (more,) = [stage for stage in longer.stages if stage.name == "sets"]
    assert more.hours > 100 * stage.hours
    sweep(config, progress=False, local=True)
    (row,) = load_rows(config.output_folder).to_dict("records")
    assert row["status"] == "done" and row["seconds_own"] > 0 and row["seconds_distill"] >= row["seconds_own"]
    assert row["method_loss_first"] > 0 and row["set_iterations_1"] == 5 and row["set_network"] == "convnet3_w32"


def test_what_cannot_work_is_said_before_any_work():
    context = DistillContext(load_data("digits", limit_per_class=5), store=None)
    assert isinstance(context.store, Store)
    for settings, message in (({"network": "convnet9"}, "convnet"), ({}, "5 training images.*needs 6")):
        with pytest.raises(Exception, match=message):
            DM(**settings).check(context, 6, None)
