"""Methods that learn their images: what they refuse, what they store, and that a kill changes nothing."""

from __future__ import annotations

import functools
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from ddoq_baselines.dc import DC
from ddoq_baselines.dm import DM
from ddoq_baselines.dsa import DSA
from ddoq_baselines.engine import features
from ddoq_baselines.engine.networks import FlatNetwork
from ddoq_baselines.ftd import FTD
from ddoq_baselines.idm import IDM
from ddoq_baselines.m3d import M3D
from ddoq_baselines.mtt import MTT
from ddoq_baselines.random_mosaic import RandomMosaic
from ddoq_baselines.satm import SATM

from ddoq_plugin.data import load_data
from ddoq_plugin.data.transforms import decode_mosaic
from ddoq_plugin.distiller import DistillContext
from ddoq_plugin.errors import ConfigError, DistillError, EvaluationError
from ddoq_plugin.store.artifacts import Store
from ddoq_plugin.store.code import code_hash

EXPERTS = MTT.quick["experts"]


@pytest.fixture
def context(tmp_path):
    return DistillContext(load_data("digits", limit_per_class=12), store=Store(tmp_path / "store"))


def quick(method, **settings):
    return method(**{**method.quick, **settings})


def stored(context, kind):
    return len(list(context.store.root.glob(f"{kind}/*/manifest.json")))


REFUSED = [
    (DC, {"outer": {1: 1, 10: 10}}, DistillError, "'outer' has no number for IPC 3.*1, 10"),
    (DSA, {"dsa": "color_blur"}, Exception, "blur"),
    (MTT, {"max_start": 3}, DistillError, "up to epoch 3.*train for 2"),
    (MTT, {"min_start": 1}, DistillError, "min_start 1 must be below max_start, 1"),
    (MTT, {"label_lr": 1.0, "init": "noise"}, DistillError, "set init: real"),
    (MTT, {"network": "convnet3_bn_w32"}, DistillError, "batch norms"),
    (IDM, {"network": "convnet3_bn_w32"}, DistillError, "batch norms"),
    (M3D, {"factor": 1}, DistillError, "init mosaic goes with factor 2"),
    (SATM, {"rho": 0.0}, ConfigError, "rho"),
    (FTD, {"average": 1.0}, ConfigError, "average"),
]


@pytest.mark.parametrize(("method", "settings", "kind", "message"), REFUSED)
def test_what_cannot_work_is_said_before_any_work(context, method, settings, kind, message):
    with pytest.raises(kind, match=message):
        quick(method, **settings).distill(context, 3)
    assert stored(context, "experts") == 0


@pytest.mark.parametrize("method", [IDM, M3D, RandomMosaic])
def test_a_class_too_small_for_the_parts_of_mosaics_is_named(context, method):
    made = RandomMosaic() if method is RandomMosaic else quick(method)
    with pytest.raises(DistillError, match=r"class 'zero' has 12 training images and .* needs 16"):
        made.distill(context, 4)


@pytest.mark.parametrize("method", [IDM, M3D, RandomMosaic])
def test_images_of_an_odd_side_make_no_mosaics(method):
    odd = DistillContext(load_data("digits", limit_per_class=12, image_size=15))
    made = RandomMosaic() if method is RandomMosaic else quick(method)
    with pytest.raises(DistillError, match="an even side, not 15 px; set image_size"):
        made.check(odd, 1, None)


def test_a_network_without_features_is_refused(context):
    from ddoq_plugin.evaluation.features import last_linear

    with pytest.raises(EvaluationError, match="mynet has no linear layer.*choose another student"):
        last_linear(torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1)), "mynet")
    network = context.network("lenet", 0)
    assert last_linear(network).out_features == 10


def test_a_rate_that_leaves_its_bounds_is_one_clear_error(context):
    with pytest.raises(DistillError, match="'mtt' diverged: its learnt rate went from .* at step 0; lower rate_lr"):
        quick(MTT, rate_lr=1e8).distill(context, 1)


def test_experts_that_diverge_are_one_clear_error(context):
    with pytest.raises(DistillError, match="expert 1 diverged: its loss is .* after epoch 1; lower the experts' lr"):
        quick(MTT, experts={**EXPERTS, "lr": 1e4}).distill(context, 1)


def test_methods_ipc_and_seeds_share_experts(context):
    for method, ipc, seed in ((MTT, 1, 0), (MTT, 2, 0), (MTT, 1, 1), (SATM, 1, 0)):
        context.distilled(quick(method), ipc, seed=seed)
    assert stored(context, "experts") == 1 and stored(context, "spaces") == 0
    context.distilled(quick(MTT, zca=True), 1)
    context.distilled(quick(FTD), 1)
    assert stored(context, "experts") == 3 and stored(context, "spaces") == 1


def test_an_experts_epochs_are_different_parameters(context):
    """A snapshot is a copy: the published code stores the last parameters at every epoch on a CPU."""
    experts = quick(MTT).experts(context)
    parameters = experts.parameters(0)
    assert parameters.shape[0] == EXPERTS["epochs"] + 1
    assert (parameters[1:] - parameters[:-1]).abs().amax(1).min() > 0


def published_buffer(context, parameters, file):
    """Write experts as MTT's buffer.py does: a list of experts, of snapshots, of parameters."""
    network = FlatNetwork(context.network("convnet3_w32", "check"))
    torch.save([[list(map(torch.clone, network.tensors(one))) for one in expert] for expert in parameters], file)


def test_given_experts_take_the_place_of_ours(tmp_path, context):
    method = quick(MTT, experts={**EXPERTS, "epochs": 6, "lr": 0.05})
    own = method.distill(context, 1)
    published_buffer(context, [method.experts(context).parameters(0)], tmp_path / "replay_buffer_0.pt")
    elsewhere = DistillContext(context.data, store=Store(tmp_path / "other"))
    given = quick(MTT, experts={**EXPERTS, "epochs": 6, "path": str(tmp_path / "replay_buffer_0.pt")})
    assert elsewhere.distilled(given, 1).hash == own.hash and stored(elsewhere, "experts") == 0
    (file,) = context.store.root.glob("experts/*/trajectory.safetensors")
    ours = quick(MTT, experts={**EXPERTS, "epochs": 6, "path": str(file.parent)})
    assert ours.distill(elsewhere, 1).hash == own.hash
    assert ours.inputs(1, 0) != given.inputs(1, 0)


def test_given_experts_that_do_not_fit_are_named(tmp_path, context):
    network = FlatNetwork(context.network("convnet3_w32", "check"))
    file = tmp_path / "replay_buffer_0.pt"

    def refused(message, **more):
        with pytest.raises(DistillError, match=message):
            quick(MTT, **{"experts": {**EXPERTS, "path": str(tmp_path)}, **more}).distill(context, 1)

    refused("there are no experts in")
    published_buffer(context, [network.vector()[None].repeat(3, 1)], file)
    refused(
        "are 1 of 2 epochs; set experts.count and experts.epochs", experts={**EXPERTS, "count": 2, "path": str(file)}
    )
    refused("classify .*% of the training images right after 2 epochs: they are of other data")
    refused(
        "another network than convnet3: parameter 0 has shape .32, 3, 3, 3., not .128, 3, 3, 3.", network="convnet3"
    )
    torch.save({"a": 1}, file)
    refused("is no buffer of experts")


def test_a_set_of_whitened_images_says_so(context):
    made = quick(MTT, zca=True).distill(context, 1)
    assert made.preprocessing.kind == "zca" and made.floats is not None and made.learning_rate is not None
    plain = quick(MTT).distill(context, 1)
    assert plain.preprocessing.kind == "none" and plain.floats is None


def test_learnt_labels_are_targets_of_the_set(context):
    made = quick(MTT, label_lr=1.0).distill(context, 1)
    assert made.targets.shape == (10, 10) and made.target_kind == "logits"
    assert made.provenance["stats"]["skipped_steps"] == 0


def test_steps_beyond_the_threshold_change_nothing(context):
    made = quick(MTT, skip_above=1e-9).distill(context, 1)
    assert made.provenance["stats"]["skipped_steps"] == MTT.quick["iterations"]
    assert made.learning_rate == pytest.approx(0.01)


@pytest.mark.parametrize("method", [DM, M3D])
def test_classes_in_groups_give_the_step_of_all_together(context, monkeypatch, method):
    images = []
    for values in (features.WITH_GRADIENT, 3 * 16**2 * 10):  # ten images together, and two of M3D's four parts more
        monkeypatch.setattr(features, "WITH_GRADIENT", values)
        learning = quick(method).begin(context, 3, 0)
        before = learning.pixels.values.detach().clone()
        loss = learning.step(0)
        images.append(learning.pixels.values.detach())
    assert math.isfinite(loss) and (images[0] - before).abs().max() > 1e-3
    torch.testing.assert_close(images[0], images[1], rtol=0, atol=1e-6)


def test_a_number_by_ipc_may_be_zero(context):
    late = quick(MTT, min_start={3: 0, 5: 1})
    late.check(context, 3, None)
    with pytest.raises(DistillError, match="min_start 1 must be below"):
        late.check(context, 5, None)


def test_the_average_of_the_images_is_what_ftd_gives(context):
    """With a decay near 1 the set is the images that it began with; with 0 it is MTT's on the same experts."""
    started = quick(FTD, average=0.999999, lr=1000.0).distill(context, 1)
    moved = quick(FTD, average=0.0, lr=1000.0).distill(context, 1)
    first = quick(FTD, average=0.0, lr=1e-9).distill(context, 1)
    assert torch.equal(started.images, first.images) and not torch.equal(moved.images, first.images)


def test_parts_of_a_random_mosaic_are_halved_training_images(context):
    made = RandomMosaic().distill(context, 3)
    parts = decode_mosaic(made.images.float() / 255)
    assert made.mosaic == 2 and len(parts) == 4 * len(made)
    halved = torch.nn.functional.interpolate(context.images(0).float() / 255, scale_factor=0.5, mode="bilinear")
    corner = made.images[0, :, :8, :8].float() / 255
    assert (halved - corner).abs().amax((1, 2, 3)).min() <= 0.5 / 255 + 1e-6


def test_the_code_of_a_partial_function_is_that_of_its_function(context):
    work = context.artifact_work("things", {}, functools.partial(helper, 1))
    assert work.key["code"] == code_hash(__name__) != code_hash("functools")


def helper(number, folder):
    """Stand for a method's function."""


SLOWLY = """\
import sys, torch
from ddoq_baselines.mtt import MTT
from ddoq_plugin.data import load_data
from ddoq_plugin.distiller import DistillContext, core
from ddoq_plugin.store.artifacts import Store
torch.set_num_threads(1)
core.CHECKPOINT_SECONDS = 0.0
context = DistillContext(load_data("digits", limit_per_class=40), store=Store(sys.argv[1]))
experts = {"count": 2, "epochs": 12, "batch": 16, "lr": 0.03}
method = MTT(iterations=40, steps=6, max_start=5, network="convnet3_w32", lr=10.0, experts=experts)
print(context.distilled(method, 1).hash)
"""


def test_killed_in_an_expert_and_in_the_images_it_ends_with_the_same_set(tmp_path):
    def start(store):
        return subprocess.Popen([sys.executable, "-c", SLOWLY, str(store)], stdout=subprocess.PIPE, text=True)

    def kill_when(kind, store):
        running, deadline = start(store), time.monotonic() + 200
        while not list(store.rglob(f"{kind}/*/*.checkpoint")) and not list(store.rglob(f"{kind}/*.checkpoint")):
            assert running.poll() is None and time.monotonic() < deadline, f"no checkpoint among {kind}"
            time.sleep(0.005)
        os.kill(running.pid, signal.SIGKILL)
        running.wait()

    whole, _ = start(tmp_path / "whole").communicate(timeout=300)
    store = tmp_path / "killed"
    kill_when("experts", store)
    assert not list(store.glob("experts/*/manifest.json")), "the expert was done"
    kill_when("sets", store)
    assert len(list(store.glob("experts/*/manifest.json"))) == 2 and not list(store.glob("sets/*/manifest.json"))
    again, _ = start(store).communicate(timeout=300)
    assert again == whole != ""
    assert not list(store.rglob("*.checkpoint"))
