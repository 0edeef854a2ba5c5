"""FRePo: its steps against values of the official code, and the sets that it makes."""

from __future__ import annotations

import pytest
import torch
from ddoq_baselines.engine.kernel import centred, half_squares, margins, predictions, share_of_trace
from ddoq_baselines.frepo import FRePo, cosine, lamb, regression_loss
from published import Values, near

from ddoq_plugin.data import load_data
from ddoq_plugin.distiller import DistillContext, make_distiller
from ddoq_plugin.evaluation import TrainingSet, load_protocol, train_student
from ddoq_plugin.evaluation.features import features_of
from ddoq_plugin.evaluation.students.convnet import _kernel_convnet
from ddoq_plugin.store import Store

QUICK = {"iterations": 4, "batch": 32, "network": "frepo3_bn_w32", "pool": 2, "limit": 1, "flip": False}


@pytest.fixture
def context(tmp_path):
    return DistillContext(load_data("digits", limit_per_class=12), None, Store(tmp_path))


def network_of(values: Values) -> torch.nn.Module:
    """Return our network with flax's parameters: kernels HWIO, features flattened row by row, channels last."""
    kernels = [values[f"w.Conv_{place}.kernel"] for place in range(8) if f"w.Conv_{place}.kernel" in values]
    width, classes, side = kernels[0].shape[-1], len(values["w.Dense_0.bias"]), values["x_proto"].shape[1]
    norm = "w.BatchNorm_0.scale" in values
    made = _kernel_convnet(classes, side, depth=len(kernels), width=width, norm=norm).double()
    convolutions = [layer for layer in made.modules() if isinstance(layer, torch.nn.Conv2d)]
    norms = [layer for layer in made.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for place, layer in enumerate(convolutions):
            layer.weight.copy_(kernels[place].permute(3, 2, 0, 1))
            layer.bias.copy_(values[f"w.Conv_{place}.bias"])
        for place, layer in enumerate(norms):
            for ours, theirs in (("weight", "w.{}.scale"), ("bias", "w.{}.bias"), ("running_mean", "stats.{}.mean"),
                                 ("running_var", "stats.{}.var")):  # fmt: skip
                getattr(layer, ours).copy_(values[theirs.format(f"BatchNorm_{place}")])
        last, dense = side >> len(kernels), values["w.Dense_0.kernel"]
        made.classifier.weight.copy_(dense.view(last, last, -1, classes).permute(3, 2, 0, 1).flatten(1))
        made.classifier.bias.copy_(values["w.Dense_0.bias"])
    return made.eval()


def images_of(values: Values, name: str) -> torch.Tensor:
    return values[name].permute(0, 3, 1, 2).contiguous()


@pytest.mark.parametrize("name", ["frepo_step", "frepo_step_bn"])
def test_steps_are_those_of_the_published_code(name):
    values = Values(name)
    network, flip = network_of(values), bool(values["flip"])
    x, y = images_of(values, "x_proto").requires_grad_(), values["y_proto"].clone().requires_grad_()
    real, wanted = images_of(values, "x_target"), values["y_target"]
    near(network(real).detach(), values["logits_target"])
    features = features_of(network, x)
    lam = share_of_trace(features, float(values["reg"]), per_row=True)
    near((features @ features.T + lam * torch.eye(len(x))).detach(), values["kernel_regularised"])
    made = predictions(features_of(network, real), features, y, lam)
    near(made.detach(), values["pred_noflip"], 1e-7)
    near(half_squares(made, wanted).detach(), values["kernel_loss_noflip"], 1e-7)
    near(-margins(y).detach(), values["label_loss_per_proto"])
    optimiser, lr = lamb([x, y], float(values["lamb_lr"])), float(values["lamb_lr"])
    for step in range(3):
        loss = regression_loss(network, real, wanted, x, y, flip=flip)
        near(loss.detach(), values[f"total_loss.{step}"], 1e-7)
        optimiser.zero_grad()
        loss.backward(inputs=[x, y])
        if step == 0:
            near(x.grad.permute(0, 2, 3, 1), values["grad_x"], 1e-7)
            near(y.grad, values["grad_y"], 1e-7)
        factor = cosine(step, int(values["lamb_decay_steps"]), float(values["lamb_alpha"]))
        optimiser.param_groups[0]["lr"] = lr * factor
        optimiser.step()
        near(x.detach().permute(0, 2, 3, 1), values[f"x_after.{step}"], 1e-6)
        near(y.detach(), values[f"y_after.{step}"], 1e-6)


def test_batch_norm_keeps_the_statistics_of_flax():
    values = Values("frepo_step_bn")
    network = network_of(values).train()
    with torch.no_grad():
        near(features_of(network, images_of(values, "x_proto")).view(10, 16, 2, 2).permute(0, 2, 3, 1).flatten(1),
             values["train_feat_proto"])  # fmt: skip
    norms = [layer for layer in network.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    for place, layer in enumerate(norms):
        near(layer.running_mean, values[f"stats_after_train.BatchNorm_{place}.mean"], 1e-6)
        near(layer.running_var, values[f"stats_after_train.BatchNorm_{place}.var"], 1e-6)


def test_a_step_is_as_long_as_its_rate_times_the_images():
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    before, optimiser = x.detach().clone(), lamb([x], 0.01)
    x.grad = 1e-6 * torch.ones_like(x)
    optimiser.step()
    assert float((x.detach() - before).norm()) == pytest.approx(0.01 * float(before.norm()), rel=1e-4)


def test_targets_are_centred_and_learnt_and_pixels_stay_pixels(context):
    made = make_distiller("frepo", {**QUICK, "iterations": 10}).distill(context, 2)
    assert made.target_kind == "regression" and made.targets.shape == (20, 10) and made.floats is None
    first = centred(made.labels, 10)
    assert not torch.equal(made.targets, first) and float((made.targets - first).abs().max()) < 0.1
    fixed = make_distiller("frepo", {**QUICK, "learn_targets": False}).distill(context, 2)
    assert torch.equal(fixed.targets, first)
    assert made.provenance["stats"]["networks_made"] > QUICK["pool"], "the limit is one step"


def test_a_set_is_scored_by_its_targets(context):
    made = make_distiller("frepo", QUICK).distill(context, 1)
    protocol = load_protocol({"extends": "soft_frepo", "epochs": 3, "augmentation": {"dsa": ""}})
    train = TrainingSet.from_set(made, protocol, context.data.image_size)
    assert train_student(train, "frepo3_w32", protocol, context.data, seed=0).steps == 3


def test_whitened_sets_are_kept_in_their_space(context):
    made = make_distiller("frepo", {**QUICK, "zca": True}).distill(context, 1)
    assert made.preprocessing.kind == "zca" and made.floats is not None
    works = [work.kind for work in context.work_of(make_distiller("frepo", {**QUICK, "zca": True}), 1).needs]
    assert works == ["spaces"]


def test_a_killed_run_goes_on_to_the_same_bits(context, monkeypatch):
    """Networks, their Adams and counters, LAMB and both tensors are in the checkpoint."""
    import ddoq_plugin.distiller.core as core

    method = make_distiller("frepo", {**QUICK, "iterations": 6})
    whole = method.distill(context, 1, seed=1).hash
    monkeypatch.setattr(core, "CHECKPOINT_SECONDS", 0.0)
    step, taken = type(method.begin(context, 1, 1)).step, []

    def stopped(self, number):
        if number == 4 and not taken:
            taken.append(number)
            raise KeyboardInterrupt
        return step(self, number)

    monkeypatch.setattr(type(method.begin(context, 1, 1)), "step", stopped)
    with pytest.raises(KeyboardInterrupt):
        context.distilled(method, 1, seed=1)
    assert context.distilled(method, 1, seed=1).hash == whole and taken == [4]


def test_settings_that_do_nothing_are_refused():
    with pytest.raises(Exception, match="dsa"):
        FRePo(dsa="color")
