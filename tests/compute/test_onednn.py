from __future__ import annotations

import pytest
import torch
from torch import nn

from ddoq_plugin.compute import onednn
from ddoq_plugin.compute.onednn import MIN_MULTIPLICATIONS, OneDnnLinear, use_onednn
from ddoq_plugin.evaluation.runtime import Runtime, arranged
from ddoq_plugin.evaluation.students.build import build_student
from ddoq_plugin.priors.speed import arrange

available = pytest.mark.skipif(onednn._product() is None, reason="oneDNN has no AVX-512 product here")


def stream() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@available
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(700, 96), (10, 70, 96), (5, 2, 70, 96)])
def test_values_and_gradients_are_those_of_a_linear_layer(bias, shape):
    layer = nn.Linear(96, 64, bias=bias)
    x = torch.randn(shape, generator=stream(), requires_grad=True)
    assert x.numel() * 64 >= MIN_MULTIPLICATIONS
    upstream = torch.randn(*shape[:-1], 64, generator=stream()).transpose(0, -2).contiguous().transpose(0, -2)
    exact_x, exact_layer = x.detach().double().requires_grad_(), nn.Linear(96, 64, bias=bias).double()
    exact_layer.load_state_dict(layer.state_dict())
    expected = exact_layer(exact_x)
    expected.backward(upstream.double())
    use_onednn(layer)
    found = layer(x)
    assert found.grad_fn.name().startswith("_Linear")  # it went the other way
    found.backward(upstream)
    pairs = [(found, expected), (x.grad, exact_x.grad)]
    pairs += [(a.grad, b.grad) for a, b in zip(layer.parameters(), exact_layer.parameters(), strict=True)]
    for ours, exact in pairs:
        assert (ours - exact).abs().max() <= 1e-5 * exact.abs().max()


@available
def test_small_products_other_types_and_autocast_take_the_plain_way():
    layer = nn.Linear(96, 64)
    use_onednn(layer)
    few, large = torch.randn(4, 96, generator=stream()), torch.randn(700, 96, generator=stream())
    for small in (few, large[:400]):  # few rows, few multiplications
        assert layer(small).grad_fn.name() == "AddmmBackward0"
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(large).dtype == torch.bfloat16
    assert layer.double()(large.double()).dtype == torch.float64


@available
def test_students_and_priors_on_a_cpu_have_it():
    student = arranged(build_student("vit_tiny", 3, 16, seed=0), Runtime())
    denoiser = nn.Sequential(nn.Linear(8, 8), nn.Conv2d(3, 3, 1))
    arrange(denoiser, channels_last=None)
    for model in (student, denoiser):
        assert {type(module) for module in model.modules() if isinstance(module, nn.Linear)} == {OneDnnLinear}


def test_where_the_operator_is_missing_layers_stay_as_they_are(monkeypatch):
    onednn._product.cache_clear()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    layer = nn.Linear(8, 8)
    use_onednn(layer)
    assert type(layer) is nn.Linear
    onednn._product.cache_clear()


def test_an_operator_of_another_form_is_not_used(monkeypatch):
    class Renamed:
        """Stands for a version of PyTorch without the operator."""

    onednn._product.cache_clear()
    monkeypatch.setattr(torch.ops, "mkldnn", Renamed())
    assert onednn._product() is None
    monkeypatch.undo()
    onednn._product.cache_clear()


@available
def test_the_parameters_keep_their_names():
    layer = nn.Sequential(nn.Linear(4, 2))
    names = list(layer.state_dict())
    use_onednn(layer)
    assert list(layer.state_dict()) == names


@available
def test_a_compiled_model_keeps_the_plain_product():
    layer = nn.Linear(96, 64)
    x = torch.randn(700, 96, generator=stream())
    expected = layer(x)
    use_onednn(layer)
    assert torch.equal(torch.compile(layer, backend="eager", fullgraph=True)(x), expected)
