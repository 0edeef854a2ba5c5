from __future__ import annotations

import dataclasses
import shutil
import statistics

import pytest
import torch
from evaluation_helpers import protocol, tiny_data
from pydantic import ValidationError

from ddoq_plugin.data.base import rows_by_class
from ddoq_plugin.errors import EvaluationError
from ddoq_plugin.evaluation.protocol import Execution
from ddoq_plugin.evaluation.runtime import Runtime, arranged, forward, multiplies_bfloat16, resolve
from ddoq_plugin.evaluation.students import ENTRIES
from ddoq_plugin.evaluation.students.build import build_student
from ddoq_plugin.evaluation.training import TrainingSet, train_student
from ddoq_plugin.seeding import numpy_rng

MARGIN = 0.5  # points of top-1: the 95 % interval of the mean paired difference must lie within it


@pytest.fixture(scope="module")
def data():
    return tiny_data()


def test_auto_follows_the_students_flags_and_the_machine(monkeypatch):
    monkeypatch.setattr("ddoq_plugin.evaluation.runtime.multiplies_bfloat16", lambda kind: True)
    assert resolve(Execution(), "convnet3", "cpu") == Runtime("bfloat16", True, False)
    assert resolve(Execution(), "convnet3", "cuda") == Runtime("float32", False, False)
    assert resolve(Execution(), "resnet18", "cpu") == Runtime("bfloat16", True, False)
    assert resolve(Execution(), "resnet18", "cuda") == Runtime("float32", True, False)
    assert resolve(Execution(), "resnet50", "cpu") == Runtime("float32", True, False)  # not measured, so not taken
    assert resolve(Execution(), "mlp", "cpu") == Runtime()
    assert resolve(Execution(), "timm:resnet10t", "cpu") == Runtime()
    monkeypatch.setattr("ddoq_plugin.evaluation.runtime.multiplies_bfloat16", lambda kind: False)
    assert resolve(Execution(), "convnet3", "cpu") == Runtime("float32", True, False)
    asked = Execution(precision="bfloat16", memory_format="contiguous")
    assert resolve(asked, "convnet3", "cpu") == Runtime("bfloat16", False, False)


def test_what_was_used_stands_in_the_result(data):
    train = TrainingSet.from_split(data.train)
    for precision in ("float32", "bfloat16"):
        made = protocol(execution={"precision": precision})
        running = train_student(train, "convnet3_w32", made, data, seed=0, split="val").running
        assert running == resolve(made.execution, "convnet3_w32", "cpu")
        assert running.columns() == {"precision": precision, "memory_format": "channels_last", "compiled": False}


def test_bfloat16_is_not_mistaken_for_native_where_it_is_not():
    flags = {"_is_avx512_bf16_supported", "_is_amx_tile_supported"}
    known = [getattr(torch.cpu, name)() for name in flags if hasattr(torch.cpu, name)]
    assert multiplies_bfloat16("cpu") is any(known)
    assert multiplies_bfloat16("cuda") is (torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= 8)


def test_only_known_formats_are_taken():
    for wrong in ({"precision": "bf16"}, {"compile": "sometimes"}, {"memory_format": "nhwc"}):
        with pytest.raises(ValidationError):
            Execution(**wrong)


def test_compilation_without_a_compiler_says_so(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(EvaluationError, match="no C.. compiler"):
        resolve(Execution(compile=True), "mlp", "cpu")
    assert not resolve(Execution(compile="auto"), "mlp", "cpu").compiled


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_training_stays_close_to_the_eager_one(data):
    train = TrainingSet.from_split(data.train)
    weights = []
    for compiled in (False, True):
        made = protocol(steps=3, execution={"precision": "float32", "compile": compiled})
        model = train_student(train, "convnet3_w32", made, data, seed=0, split="val").model
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(weights[1], weights[0], atol=1e-4, rtol=1e-3)


def test_attention_spelt_out_for_bfloat16_is_the_same_function():
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    outputs = {}
    for precision in ("float32", "bfloat16"):
        model = arranged(build_student("vit_tiny", 3, 16, seed=0), Runtime(precision)).eval()
        fused = [module.fused_attn for module in model.modules() if hasattr(module, "fused_attn")]
        assert fused and all(flag is (precision == "float32") for flag in fused)
        with torch.inference_mode():
            outputs[precision] = forward(model, x, Runtime("float32"))
    torch.testing.assert_close(outputs["bfloat16"], outputs["float32"], atol=1e-4, rtol=1e-4)


EQUAL_ON_DIGITS = [e.name for e in ENTRIES if e.flags.get("bfloat16") and e.flags.get("embedded")] + ["convnet3"]
SEEDS = {"resnet10_w16": 60}  # its two formats differ two to three times as much by chance as a ConvNet's


@pytest.mark.slow
@pytest.mark.skipif(not multiplies_bfloat16("cpu"), reason="this processor has no products in bfloat16")
@pytest.mark.parametrize("student", EQUAL_ON_DIGITS)
def test_accuracy_in_bfloat16_is_that_in_float32(student):
    """Paired by seed, on digits neither trained on nor of the test split: the 95 % interval of the mean difference lies
    within half a point.
    """
    from scipy.stats import t

    from ddoq_plugin.data import load_data
    from ddoq_plugin.evaluation import Protocol, load_protocol

    digits, settings = load_data("digits"), load_protocol("hard_short").model_dump()
    forms = [Protocol.model_validate(settings | {"execution": {"precision": p}}) for p in ("float32", "bfloat16")]
    differences = []
    for seed in range(SEEDS.get(student, 20)):
        random = numpy_rng("digits in bfloat16", seed)
        classes = [rows[torch.from_numpy(random.permutation(len(rows)))] for rows in rows_by_class(digits.train.labels)]
        train = TrainingSet.from_split(digits.train.subset(torch.cat([rows[:20] for rows in classes])))
        others = dataclasses.replace(digits, val=digits.train.subset(torch.cat([rows[20:] for rows in classes])))
        top1 = [train_student(train, student, form, others, seed=seed, split="val").top1 for form in forms]
        differences.append(top1[1] - top1[0])
    half = t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / len(differences) ** 0.5
    assert abs(statistics.mean(differences)) + half <= MARGIN
