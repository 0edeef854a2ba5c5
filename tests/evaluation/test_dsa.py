"""Differentiable siamese augmentation: the official code's values, and what a draw promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from published import Values, near

from ddoq_plugin.errors import ConfigError
from ddoq_plugin.evaluation.dsa import Draw, augment, draw
from ddoq_plugin.evaluation.dsa_strategy import OPERATIONS, STRATEGY


@pytest.mark.parametrize("file", ["dsa_ops_rgb16", "dsa_ops_gray28"])
@pytest.mark.parametrize("how", ["one", "each"])
@pytest.mark.parametrize("operation", [*OPERATIONS, "scale_corners", "rotate_corners"])
def test_operations_equal_the_published_ones(file, how, operation):
    values = Values(file, torch.float32)
    name, _, corners = operation.partition("_")
    prefix = f"{name}_{how}" + ("_corners" if corners else "")
    if f"{prefix}.y" not in values:
        assert (file, name) == ("dsa_ops_gray28", "flip"), "the file lacks what its table names"
        return
    images = values["x"].requires_grad_()
    made = augment(images, values.draw(prefix, name), align_corners=bool(corners))
    for got, wanted in ((made, f"{prefix}.y"), (_gradient(made, images, values), f"{prefix}.gx")):
        near(got, values[wanted], 2e-4)


def _gradient(made, images, values):
    (made * values["cotangent"]).sum().backward()
    return images.grad


def mixed(count: int = 24, size: int = 16, seed: int = 0) -> tuple[torch.Tensor, Draw]:
    source = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, size, size, generator=source, dtype=torch.float64)
    return images, draw(STRATEGY, count, size, source, operations="each")


def test_images_with_operations_of_their_own_are_as_each_alone():
    images, drawn = mixed()
    assert len(drawn.operation.unique()) == len(OPERATIONS)
    together = augment(images, drawn)
    for i in range(len(images)):
        torch.testing.assert_close(together[i : i + 1], augment(images[i : i + 1], drawn[i : i + 1]))


def test_one_draw_is_the_same_for_every_image():
    images, drawn = mixed()
    for i in range(len(drawn)):
        torch.testing.assert_close(augment(images, drawn[i : i + 1]), augment(images, drawn[i : i + 1].repeated(24)))


def test_draws_are_replayed_from_their_generator_alone():
    torch.manual_seed(1)
    first = draw(STRATEGY, 50, 32, torch.Generator().manual_seed(7))
    state = torch.get_rng_state()
    again = draw(STRATEGY, 50, 32, torch.Generator().manual_seed(7))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.operation, again.operation) and torch.equal(first.values, again.values)
    assert len(first.operation.unique()) == 1, "one operation for all"
    assert len(first.values.unique(dim=0)) > 1, "each image its own parameters"


def test_ranges_are_those_of_the_code():
    source = torch.Generator().manual_seed(3)
    drawn = {name: draw(name, 4000, 32, source).values for name in OPERATIONS}
    assert {int(v) for v in drawn["crop"][:, :2].unique()} == set(range(-4, 5))
    assert {int(v) for v in drawn["cutout"][:, :2].unique()} == set(range(33))
    assert 1 / 1.2 <= drawn["scale"][:, :2].min() and drawn["scale"][:, :2].max() <= 1.2
    assert drawn["rotate"][:, 0].abs().max() <= np.deg2rad(15) and drawn["rotate"][:, 0].std() > 0.1
    assert 0 <= drawn["color"].min() and drawn["color"].max() < 1
    few = draw("crop_flip", 500, 32, source, operations="each")
    assert {OPERATIONS[i] for i in few.operation.unique().tolist()} == {"crop", "flip"}


def test_the_gradient_is_exact():
    images, drawn = mixed(count=6, size=6)
    torch.autograd.gradcheck(lambda x: augment(x, drawn), images.requires_grad_())


def test_an_unknown_operation_is_named():
    with pytest.raises(ConfigError, match="no operation 'flop'; did you mean 'flip'"):
        draw("color_flop", 1, 8, torch.Generator())
    with pytest.raises(ConfigError, match="at least one operation"):
        draw("", 1, 8, torch.Generator())
