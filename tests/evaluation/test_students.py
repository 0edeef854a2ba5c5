from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from ddoq_plugin.errors import EvaluationError, UnknownNameError
from ddoq_plugin.evaluation.students import ENTRIES
from ddoq_plugin.evaluation.students.backed import patch_size
from ddoq_plugin.evaluation.students.build import build_student, channels_last, check_student
from ddoq_plugin.evaluation.students.layers import AveragePool2
from ddoq_plugin.registry import STUDENTS


def test_importing_the_list_of_students_loads_no_torch():
    code = "import sys, ddoq_plugin.evaluation.students as s; assert s.ENTRIES; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", [entry.name for entry in ENTRIES])
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
    assert not channels_last("timm:resnet10t") and channels_last("resnet18") and not channels_last("convnet3")


def test_vit_patches_divide_the_image_into_about_eight_a_side():
    assert {size: patch_size(size) for size in (16, 28, 32, 64, 128, 224)} == {
        16: 2,
        28: 4,
        32: 4,
        64: 8,
        128: 16,
        224: 16,
    }


@pytest.mark.parametrize("size", [8, 7])
def test_the_fast_pool_is_average_pooling_with_its_gradient(size):
    x = torch.rand(2, 3, size, size, dtype=torch.float64, requires_grad=True)
    expected = torch.nn.functional.avg_pool2d(x, 2)
    weight = torch.rand_like(expected)
    (wanted,) = torch.autograd.grad((expected * weight).sum(), x)
    pooled = AveragePool2()(x)
    (found,) = torch.autograd.grad((pooled * weight).sum(), x)
    torch.testing.assert_close(pooled, expected)
    torch.testing.assert_close(found, wanted)
    strided = x.detach().contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(AveragePool2()(strided), expected)
