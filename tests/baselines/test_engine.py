"""The losses and gradients that the matching methods share, against values of the official code."""

from __future__ import annotations

import pytest
import torch
from ddoq_baselines.engine.losses import (
    discrepancy,
    gradient_distance,
    mean_distance,
    soft_cross_entropy,
    trajectory_distance,
)
from ddoq_baselines.engine.networks import FlatNetwork
from ddoq_baselines.engine.unroll import unroll
from published import Values, near
from torch.nn import functional as F

from ddoq_plugin.data.transforms import decode_mosaic
from ddoq_plugin.evaluation.dsa import Draw, augment
from ddoq_plugin.evaluation.students.convnet import _convnet


@pytest.mark.parametrize("file", ["convnet_rgb32", "convnet_rgb16_bn"])
def test_networks_equal_the_published_ones(file):
    values = Values(file)
    network = FlatNetwork(values.module())
    theta = network.vector().requires_grad_()
    features, logits = network.features_and_logits(theta, values["x"])
    near(features, values["embed"])
    near(logits, values["logits"])
    loss = F.cross_entropy(logits, values["y"])
    assert loss.item() == pytest.approx(float(values["cross_entropy"]), rel=1e-9)
    (gradient,) = torch.autograd.grad(loss, theta)
    for name, own in zip(network.names, network.tensors(gradient), strict=True):
        wanted = values[f"g.{name.removeprefix('inner.')}"]
        assert (own - wanted).abs().max() <= 1e-9 * gradient.abs().max()


def test_a_grey_network_is_ours_on_padded_images():
    """One channel with 3 pixels of padding: three equal channels padded by 2, a third of the weights, padding 1."""
    values = Values("convnet_gray28")
    state = {name.removeprefix("w."): value for name, value in values.items() if name.startswith("w.")}
    state["features.0.weight"] = state["features.0.weight"].expand(-1, 3, -1, -1) / 3
    width, classes = len(state["features.0.weight"]), len(state["classifier.weight"])
    network = _convnet(classes, 32, depth=3, width=width).double()
    network.load_state_dict(state)
    flat = FlatNetwork(network)
    features, logits = flat.features_and_logits(flat.vector(), F.pad(values["x"], (2, 2, 2, 2)).expand(-1, 3, -1, -1))
    near(features, values["embed"])
    near(logits, values["logits"])


@pytest.mark.parametrize("metric", ["ours", "mse", "cos"])
def test_gradient_distance_equals_the_published_one(metric):
    values = Values("dc_match_loss")
    count = sum(name.startswith("real.") for name in values)
    real = [values[f"real.{i}"] for i in range(count)]
    made = [values[f"syn.{i}"].requires_grad_() for i in range(count)]
    loss = gradient_distance(real, made, metric)
    assert loss.item() == pytest.approx(float(values[f"loss_{metric}"]), rel=1e-9)
    loss.backward()
    for i, one in enumerate(made):
        got = torch.zeros_like(one) if one.grad is None else one.grad
        torch.testing.assert_close(got, values[f"d_{metric}.{i}"], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("file", ["m3d_mmd", "m3d_mmd_one"])
@pytest.mark.parametrize("kernel", ["gaussian", "linear", "polynomial", "laplace"])
def test_discrepancy_equals_the_published_one(file, kernel):
    values, name = Values(file), {"polynomial": "polinominal"}.get(kernel, kernel)
    made = values["X"].requires_grad_()
    loss = discrepancy(made[None], values["Y"][None], kernel)[0]
    assert loss.item() == pytest.approx(float(values[f"loss_{name}"]), rel=1e-9)
    loss.backward()
    near(made.grad, values[f"grad_{name}"])


def test_discrepancies_of_classes_are_those_of_each_alone():
    source = torch.Generator().manual_seed(0)
    made, real = (torch.randn(3, n, 5, generator=source, dtype=torch.float64) for n in (2, 7))
    together = discrepancy(made, real)
    for c in range(3):
        torch.testing.assert_close(together[c], discrepancy(made[c : c + 1], real[c : c + 1])[0])
    weights = torch.tensor([2.0, 0, 0, 1, 1, 1, 2], dtype=torch.float64)
    doubled = real[:1, [0, 0, 3, 4, 5, 6, 6]]
    for kernel in ("linear", "polynomial"):
        weighted = discrepancy(made[:1], real[:1], kernel, weights[None])
        torch.testing.assert_close(weighted, discrepancy(made[:1], doubled, kernel))


def test_weights_of_real_images_stand_for_copies():
    source = torch.Generator().manual_seed(1)
    real, made = (torch.randn(2, n, 4, generator=source, dtype=torch.float64) for n in (3, 2))
    weighted = mean_distance(real, made, torch.tensor([[2.0, 0.0, 1.0], [1.0, 1.0, 1.0]], dtype=torch.float64))
    torch.testing.assert_close(weighted, mean_distance(torch.stack([real[0, [0, 0, 2]], real[1]]), made))


def test_soft_cross_entropy_equals_the_published_one():
    values = Values("datm_outer")
    logits = values["soft_ce_logits"].requires_grad_()
    loss = soft_cross_entropy(logits, values["soft_ce_targets"])
    assert loss.item() == pytest.approx(float(values["soft_ce"]), rel=1e-6)
    loss.backward()
    near(logits.grad, values["soft_ce_grad"], 1e-6)


def inner_loss(values: Values, network: FlatNetwork, dsa: bool = False):
    def loss(theta, images, labels, step):
        if dsa:
            images = augment(images, values.draw(f"dsa.{step}"))
        logits = network.logits(theta, images)
        return soft_cross_entropy(logits, labels) if labels.is_floating_point() else F.cross_entropy(logits, labels)

    return loss


@pytest.mark.parametrize("file", ["mtt_outer", "mtt_outer_full_batch", "mtt_outer_dsa"])
def test_the_unrolled_gradient_equals_the_published_one(file):
    dsa = file.endswith("dsa")
    values, share = Values(file, torch.float32 if dsa else torch.float64), 2e-4 if dsa else 1e-8
    network = values.flat_network()
    given = [values[name] for name in ("start", "target", "images", "labels", "lr")]
    made = unroll(inner_loss(values, network, dsa), *given, values.batches())
    near(made.path, values["thetas"], share)
    assert float(made.loss) == pytest.approx(float(values["loss"]), rel=share)
    near(made.images, values["grad_images"], share)
    assert float(made.rate) == pytest.approx(float(values["grad_lr"]), rel=share)
    assert float(trajectory_distance(made.path[-1], *given[:2])) == pytest.approx(float(made.loss))
    if not dsa:
        cut = unroll(inner_loss(values, network), *given, values.batches(), kept=int(values["truncate_keep"]))
        near(cut.images, values["grad_images_truncated"], share)
        constant = unroll(inner_loss(values, network), *given, values.batches(), constant=True)
        near(constant.images, values["grad_images_detached"], share)
        near(constant.images / 2, values["tesla_grad_images_official"], share)


def test_gradients_of_labels_equal_the_published_ones():
    values = Values("datm_outer")
    network = values.flat_network()
    given = [values[name] for name in ("start", "target", "images", "label_logits", "lr")]
    made = unroll(inner_loss(values, network), *given, values.batches())
    assert float(made.loss) == pytest.approx(float(values["loss"]), rel=1e-9)
    near(made.images, values["grad_images"])
    near(made.labels, values["grad_label_logits"])
    assert float(made.rate) == pytest.approx(float(values["grad_lr"]), rel=1e-8)
    constant = unroll(inner_loss(values, network), *given, values.batches(), constant=True)
    near(constant.images, values["tesla_grad_images"])
    near(constant.labels, values["tesla_grad_label_logits"])


def test_the_exact_gradient_is_that_of_the_whole_graph():
    values = Values("mtt_outer")
    network = values.flat_network()
    images, rate = values["images"].requires_grad_(), values["lr"].requires_grad_()
    theta = values["start"].requires_grad_()
    for rows in values.batches():
        loss = F.cross_entropy(network.logits(theta, images[rows]), values["labels"][rows])
        (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
        theta = theta - rate * gradient
    trajectory_distance(theta, values["start"].detach(), values["target"]).backward()
    near(images.grad, values["grad_images"])
    assert float(rate.grad) == pytest.approx(float(values["grad_lr"]))


def test_gradients_at_perturbed_images_equal_the_derived_ones():
    """The values are derived from SATM's abstract, not from its code: see the file's README."""
    values = Values("satm_derived")
    network, batches, kept = values.flat_network(), values.batches(), int(values["keep"])
    start, target, images, labels, rate = (values[name] for name in ("start", "target", "images", "labels", "lr"))
    clean = unroll(inner_loss(values, network), start, target, images, labels, rate, batches)
    near(clean.images, values["grad_images"])
    shift = values["rho"] * clean.images / clean.images.norm()
    near(shift, values["eps"])
    exact = unroll(inner_loss(values, network), start, target, images + shift, labels, rate, batches)
    assert exact.loss.item() == pytest.approx(float(values["loss_perturbed"]), rel=1e-9)
    near(exact.images, values["grad_perturbed"])
    whole, late = (start - target).square().sum(), clean.path[len(batches) - kept]
    reused = unroll(
        inner_loss(values, network), late, target, images + shift, labels, rate, batches[-kept:], distance=whole
    )
    assert reused.loss.item() == pytest.approx(float(values["loss_reuse"]), rel=1e-9)
    near(reused.images, values["grad_reuse"])


@pytest.mark.parametrize("file", ["dc_outer_steps", "dsa_outer_steps"])
def test_gradient_matching_of_classes_equals_the_published_one(file):
    values = Values(file, torch.float32)
    network, images = values.module(), values["images"].requires_grad_()
    parameters, total = list(network.parameters()), torch.zeros(())
    for c, (own, real) in enumerate(zip(images.split(2), values["real.0"], strict=True)):
        if file.startswith("dsa"):
            drawn = values.draw(f"dsa.0.{c}")
            own, real = augment(own, drawn, align_corners=False), augment(real, drawn, align_corners=False)
        gradients = [
            torch.autograd.grad(F.cross_entropy(network(x), torch.full((len(x),), c)), parameters, create_graph=True)
            for x in (real, own)
        ]
        total = total + gradient_distance(*gradients)
    assert total.item() == pytest.approx(float(values["loss.0"]), rel=2e-4)
    near(torch.autograd.grad(total, images)[0], values["grad_images.0"], 2e-4)


@pytest.mark.parametrize("file", ["dm_step_bn", "dm_step_dsa"])
def test_mean_matching_of_classes_equals_the_published_one(file):
    dsa = file.endswith("dsa")
    values, share = Values(file, torch.float32 if dsa else torch.float64), 2e-4 if dsa else 1e-8
    network, images, real = FlatNetwork(values.module()), values["images"].requires_grad_(), values["real"]
    sides = [images, real.flatten(0, 1)]
    if dsa:
        draws = [values.draw(f"dsa.{c}") for c in range(3)]
        each = Draw(torch.cat([one.operation for one in draws]), torch.cat([one.values for one in draws]))
        sides = [augment(side, each.repeated(len(side) // 3), align_corners=False) for side in sides]
    made, target = (network.features_and_logits(network.vector(), side)[0].unflatten(0, (3, -1)) for side in sides)
    loss = mean_distance(target, made)
    assert loss.item() == pytest.approx(float(values["loss"]), rel=share)
    near(torch.autograd.grad(loss, images)[0], values["grad_images"], share)


def test_discrepancy_of_mosaics_equals_the_published_one():
    values = Values("m3d_step")
    network, images = FlatNetwork(values.module()), values["images"].requires_grad_()
    mean, std = (values[name].view(1, 3, 1, 1) for name in ("mean", "std"))
    for c, (own, real) in enumerate(zip(images.split(2), values["real"], strict=True)):
        seen = [(decode_mosaic(own) - mean) / std, (real - mean) / std]
        features = [network.features_and_logits(network.vector(), x)[0][None] for x in seen]
        loss = discrepancy(*features).sum()
        assert loss.item() == pytest.approx(float(values[f"loss.{c}"]), rel=1e-8)
        near(torch.autograd.grad(loss, images)[0], values[f"grad_images.{c}"])
