from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from ddoq_plugin.errors import EvaluationError, UnknownNameError
from ddoq_plugin.evaluation.students import ENTRIES
from ddoq_plugin.evaluation.students.backed import patch_size
from ddoq_plugin.evaluation.students.build import build_student, check_student, flag_of
from ddoq_plugin.evaluation.students.layers import make_norm, norm_relu_pool
from ddoq_plugin.registry import STUDENTS


def test_importing_the_list_of_students_loads_no_torch():
    code = "import sys, ddoq_plugin.evaluation.students as s; assert s.ENTRIES; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", [entry.name for entry in ENTRIES if entry.name[-1] != ":"])
def test_every_student_trains_at_a_fitting_small_size(name):
    size = max(16, STUDENTS.entry(name).flags["min_size"])
    model = build_student(name, 3, size, seed=0)
    outputs = model(torch.rand(2, 3, size, size))
    assert outputs.shape == (2, 3)
    outputs.square().sum().backward()
    missing = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert not missing
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("convnet3", 28),
        ("mlp", 32),
        ("lenet", 28),
        ("alexnet", 32),
        ("vgg11", 64),
        ("resnet10_w16", 28),
        ("resnet10", 224),
        ("resnet_ap10", 96),
        ("vit2_w64", 28),
        ("swin_t", 64),
        ("mobilenet_v2", 32),
    ],
)
def test_other_sizes_are_taken(name, size):
    model = build_student(name, 4, size, seed=0).eval()
    with torch.inference_mode():
        assert model(torch.rand(1, 3, size, size)).shape == (1, 4)


def test_the_standard_widths_are_those_of_the_literature():
    assert build_student("convnet3", 10, 32, seed=0).classifier.in_features == 128 * 4 * 4
    assert build_student("mlp", 10, 32, seed=0).layers[1].in_features == 3 * 32 * 32
    assert build_student("alexnet", 10, 32, seed=0).layers[-1].in_features == 192 * 4 * 4
    parameters = {name: sum(p.numel() for p in build_student(name, 1000, 224, seed=0).parameters()) for name in
                  ("resnet18", "resnet50", "mobilenet_v2")}  # fmt: skip
    assert parameters == {
        "resnet18": 11_689_512,
        "resnet50": 25_557_032,
        "mobilenet_v2": 3_504_872,
    }  # torchvision's table


def test_a_seed_fixes_the_weights_and_leaves_the_global_stream_alone():
    before = torch.get_rng_state()
    first, again, other = (build_student("convnet3_w32", 3, 16, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match="convnet3_w32"):
        build_student("convnet3_w23", 3, 16, seed=0)
    with pytest.raises(UnknownNameError, match="resnet18"):
        check_student("torchvision:resnet188")
    with pytest.raises(UnknownNameError, match="resnet18"):
        check_student("timm:resnet_18")


@pytest.mark.parametrize(("name", "size"), [("vgg11", 16), ("convnet6", 32), ("vit_tiny", 17)])
def test_an_image_size_that_does_not_fit_is_refused_with_the_mend(name, size):
    with pytest.raises(EvaluationError, match="resize the data"):
        build_student(name, 3, size, seed=0)


def test_names_of_libraries_are_students():
    check_student("timm:resnet10t")
    assert build_student("timm:resnet10t", 3, 32, seed=0)(torch.rand(2, 3, 32, 32)).shape == (2, 3)
    assert build_student("timm:vit_tiny_patch16_224", 3, 32, seed=0)(torch.rand(2, 3, 32, 32)).shape == (2, 3)
    assert build_student("torchvision:shufflenet_v2_x0_5", 3, 32, seed=0)(torch.rand(2, 3, 32, 32)).shape == (2, 3)
    with pytest.raises(EvaluationError, match="does not take images of 16 px"):
        build_student("torchvision:alexnet", 3, 16, seed=0)
    assert not flag_of("timm:resnet10t", "channels_last") and flag_of("resnet18", "channels_last", "cuda")
    assert flag_of("convnet3", "channels_last") and not flag_of("convnet3", "channels_last", "cuda")


def test_vit_patches_divide_the_image_into_about_eight_a_side():
    assert {size: patch_size(size) for size in (16, 28, 32, 64, 128, 224)} == {
        16: 2,
        28: 4,
        32: 4,
        64: 8,
        128: 16,
        224: 16,
    }


@pytest.mark.parametrize(("size", "relu", "pool"), [(8, True, 2), (7, True, 2), (6, False, 1), (5, True, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_relu_and_pool_in_one_go_are_the_three_layers_with_their_gradients(size, relu, pool, dtype):
    stream = torch.Generator().manual_seed(size)
    norm = make_norm("instance", 5)
    norm.weight.data.uniform_(-1, 1, generator=stream)
    norm.bias.data.uniform_(-1, 1, generator=stream)
    x = (torch.randn(3, 5, size, size, generator=stream) + 2).to(dtype).contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    found = norm_relu_pool(x, norm, relu=relu, pool=pool)
    weight = torch.randn(found.shape, generator=stream).to(dtype)
    gradients = torch.autograd.grad(found, [x, norm.weight, norm.bias], weight)

    exact = x.detach().double().contiguous().requires_grad_()
    norm = norm.double()
    expected = F.group_norm(exact, 5, norm.weight, norm.bias, norm.eps)
    expected = F.relu(expected) if relu else expected
    expected = F.avg_pool2d(expected, pool)
    wanted = torch.autograd.grad(expected, [exact, norm.weight, norm.bias], weight.double())
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    assert found.dtype == gradients[0].dtype == dtype and gradients[1].dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)
    for one, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", ["convnet3_w32", "vgg11", "resnet18_in", "resnet_ap10"])
def test_a_student_is_the_same_function_in_both_memory_formats_and_in_float64(name):
    size = max(16, STUDENTS.entry(name).flags["min_size"])
    x = torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    outputs, slopes = [], []
    for dtype, memory in (
        (torch.float64, torch.contiguous_format),
        (torch.float32, torch.contiguous_format),
        (torch.float32, torch.channels_last),
    ):
        model = build_student(name, 3, size, seed=0).to(dtype=dtype, memory_format=memory)
        outputs.append(model(x.to(dtype).contiguous(memory_format=memory)))
        outputs[-1].square().sum().backward()
        slopes.append(torch.cat([parameter.grad.contiguous().flatten().double() for parameter in model.parameters()]))
    for found, slope in zip(outputs[1:], slopes[1:], strict=True):
        torch.testing.assert_close(found.double(), outputs[0], atol=1e-4, rtol=1e-4)
        assert (slope - slopes[0]).norm() <= 1e-3 * slopes[0].norm()


def test_threads_share_the_images_without_changing_them():
    norm, x = make_norm("instance", 4), torch.randn(5, 4, 6, 6).contiguous(memory_format=torch.channels_last)
    before = torch.get_num_threads()
    outputs = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        outputs.append(norm_relu_pool(x, norm, pool=2))
    torch.set_num_threads(before)
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])
