"""Whole steps of the methods that learn their images, against values of the official code."""

from __future__ import annotations

import pytest
import torch
from ddoq_baselines.engine.experts import gsam_direction, gsam_shift, loss_gradient
from ddoq_baselines.engine.losses import gradient_distance
from ddoq_baselines.engine.networks import FlatNetwork
from ddoq_baselines.engine.pixels import Pixels
from ddoq_baselines.engine.trajectories import TrajectoryConfig
from ddoq_baselines.engine.trajectory_steps import max_start, update_average
from ddoq_baselines.idm import matching_loss
from ddoq_baselines.satm import sharpness_aware
from published import WIDE, Values, near
from torch.nn import functional as F

from ddoq_plugin.data.transforms import decode_mosaic, make_mosaic
from ddoq_plugin.evaluation.dsa import augment


def pixels_of(values: Values) -> Pixels:
    return Pixels(WIDE.undo(values["images"]), WIDE, lr=float(values["lr_img"]), momentum=float(values["momentum"]))


def row_by_row(parts: torch.Tensor) -> torch.Tensor:
    """Return IDM's parts, which go down the columns first, in our order; the order decides nothing."""
    return parts.unflatten(0, (2, 2, -1)).transpose(0, 1).flatten(0, 2)


def test_mosaics_are_made_and_decoded_as_published():
    values = Values("idm_partition")
    x = values["x"].requires_grad_()
    decoded = decode_mosaic(x)
    near(decoded.detach(), row_by_row(values["expanded"]))
    near(torch.autograd.grad((decoded * row_by_row(values["cotangent"])).sum(), x)[0], values["gx"])
    near(decode_mosaic(values["x"].detach(), 3), values["expanded3"])  # its code goes row by row, as ours
    sources = values["init_sources"]
    near(make_mosaic(row_by_row(sources.flatten(0, 1)).view(sources.shape)), values["init"])


@pytest.mark.parametrize("file", ["idm_steps", "idm_steps_dsa"])
def test_steps_of_idm_are_those_published(file):
    """One momentum for all classes: a class's gradient acts again while the next classes take their steps."""
    dsa = file.endswith("dsa")
    values, share = Values(file, torch.float32 if dsa else torch.float64), 2e-4 if dsa else 1e-7
    network, pixels = FlatNetwork(values.module()), pixels_of(values)
    weight = float(values["accuracy_percent"]) * float(values["ce_weight"])
    for c, real in enumerate(values["real"]):
        seen = pixels.seen()
        loss = matching_loss(
            network,
            network.vector(),
            seen[2 * c : 2 * c + 2],
            real,
            c,
            drawn=values.draw(f"dsa.{c}") if dsa else None,
            ce_weight=weight,
            align_corners=False,
        )
        assert loss.item() == pytest.approx(float(values[f"loss.{c}"]), rel=max(share, 1e-6))
        (gradient,) = torch.autograd.grad(loss, seen)
        near(gradient, values[f"grad_images.{c}"], max(share, 1e-5))
        pixels.step(gradient)
        near(pixels.seen().detach(), values[f"images_after.{c}"], max(share, 1e-6))


@pytest.mark.parametrize("file", ["dc_outer_steps", "dsa_outer_steps"])
def test_outer_and_inner_steps_of_dc_are_those_published(file):
    values = Values(file, torch.float32)
    network, pixels = values.module(), pixels_of(values)
    parameters = list(network.parameters())
    for step in (0, 1):
        seen = pixels.seen()
        total = torch.zeros(())
        for c, (own, real) in enumerate(zip(seen.split(2), values[f"real.{step}"], strict=True)):
            if file.startswith("dsa"):
                drawn = values.draw(f"dsa.{step}.{c}")
                own, real = augment(own, drawn, align_corners=False), augment(real, drawn, align_corners=False)
            gradients = [
                torch.autograd.grad(
                    F.cross_entropy(network(x), torch.full((len(x),), c)), parameters, create_graph=True
                )
                for x in (real, own)
            ]
            total = total + gradient_distance(*gradients)
        assert total.item() == pytest.approx(float(values[f"loss.{step}"]), rel=2e-4)
        (gradient,) = torch.autograd.grad(total, seen)
        near(gradient, values[f"grad_images.{step}"], 2e-4)
        pixels.step(gradient)
        near(pixels.seen().detach(), values[f"images_after.{step}"], 2e-4)
        if step == 0 and file.startswith("dc"):
            optimiser = torch.optim.SGD(parameters, lr=float(values["lr_net"]))
            for _ in range(int(values["inner_epochs"])):
                optimiser.zero_grad()
                F.cross_entropy(network(pixels.seen().detach()), values["labels"]).backward()
                optimiser.step()
            for name, own in network.named_parameters():
                near(own.detach(), values[f"w_after_inner.{name}"], 2e-4)


@pytest.mark.parametrize("file", ["ftd_gsam_adaptive", "ftd_gsam_plain"])
def test_steps_of_flat_experts_are_those_published(file):
    values = Values(file)
    network = FlatNetwork(values.module())
    vector = network.vector()

    def flat(prefix: str) -> torch.Tensor:
        return network.flat(values[f"{prefix}.{name.removeprefix('inner.')}"] for name in network.names)

    for step in range(sum(name.startswith("x.") for name in values)):
        images, labels = values[f"x.{step}"], values[f"y.{step}"]
        loss, gradient = loss_gradient(network, vector, images, labels)
        assert loss.item() == pytest.approx(float(values[f"loss.{step}"]), rel=1e-9)
        near(gradient, flat(f"old_g.{step}"))
        shift = gsam_shift(vector, gradient, float(values["rho"]), adaptive=bool(values["adaptive"]))
        near(shift, flat(f"e_w.{step}"))
        perturbed = loss_gradient(network, vector + shift, images, labels)[1]
        direction = gsam_direction(gradient, perturbed, float(values["alpha"]))
        near(direction, flat(f"final_g.{step}"))
        vector = vector - float(values["lr"]) * direction
        near(vector, flat(f"w_after.{step}"))


def test_the_average_of_the_images_is_the_published_one():
    values = Values("ftd_ema")
    average = values["images"][0].clone()
    for images in values["images"][1:]:
        update_average(average, images, float(values["decay"]))
    near(average, values["ema"])


def test_the_bound_of_the_start_grows_as_published():
    for first, last, growth, iteration, bound in Values("datm_outer")["upper_bound_table"].tolist():
        config = TrajectoryConfig(first_max_start=int(first), max_start=int(last), growth=int(growth))
        assert max_start(config, int(iteration)) == bound


@pytest.mark.parametrize(("reuse", "name"), [(None, "perturbed"), (2, "reuse")])
def test_sharpness_aware_gradients_are_the_derived_ones(reuse, name):
    values = Values("satm_derived")
    network = values.flat_network()
    given = [values[name] for name in ("start", "target", "images", "labels", "lr")]

    def loss(theta, images, labels, step):
        return F.cross_entropy(network.logits(theta, images), labels)

    made = sharpness_aware(loss, *given, values.batches(), rho=float(values["rho"]), reuse=reuse)
    assert made.loss.item() == pytest.approx(float(values[f"loss_{name}"]), rel=1e-9)
    near(made.images, values[f"grad_{name}"])
