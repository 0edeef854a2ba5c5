"""Teachers' weights as people save them."""

from __future__ import annotations

import argparse

import pytest
import torch
from safetensors.torch import save_file

from ddoq_plugin.data import load_data
from ddoq_plugin.errors import EvaluationError
from ddoq_plugin.evaluation import build_student
from ddoq_plugin.evaluation.optimisers import make_optimizer
from ddoq_plugin.evaluation.protocol import Scoring, load_protocol
from ddoq_plugin.evaluation.teachers import read_weights


@pytest.fixture(scope="module")
def network():
    return build_student("mlp", 10, 16, seed=1)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_state_dict", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_and_prefixes_are_seen_through(tmp_path, network, wrapper, prefix):
    state = {f"{prefix}{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save(state if wrapper is None else {wrapper: state, "epoch": 3}, tmp_path / "w.pt")
    found = read_weights(tmp_path / "w.pt", network, "'mlp'")
    assert found.keys() == network.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in network.state_dict().items())


def write(path, kind, network):
    state = network.state_dict()
    if kind == "whole model":
        torch.save(network, path)
    elif kind == "namespace":
        torch.save({"state_dict": state, "args": argparse.Namespace(lr=1)}, path)
    elif kind == "list":
        torch.save(list(state.values()), path)
    elif kind == "text":
        path.write_text("not weights")
    elif kind == "page":
        path.write_text("<!doctype html><html></html>")
    elif kind == "cut":
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[:500])
    elif kind == "of another network":
        torch.save(build_student("convnet3_w32", 10, 16, seed=0).state_dict(), path)
    elif kind == "of other classes":
        torch.save(build_student("mlp", 7, 16, seed=0).state_dict(), path)
    elif kind == "empty":
        path.write_bytes(b"")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    "kind",
    ["whole model", "namespace", "list", "text", "page", "cut", "of another network", "of other classes", "empty"],
)
def test_a_file_that_is_no_fitting_state_dict_is_one_short_sentence(tmp_path, network, kind, suffix):
    path = tmp_path / f"w{suffix}"
    write(path, kind, network)
    with pytest.raises(EvaluationError) as caught:
        read_weights(path, network, "'mlp' with 10 classes")
    said = str(caught.value)
    assert str(path) in said and "\n" not in said and len(said) < len(str(path)) + 250
    if suffix == ".pt" and kind in ("whole model", "namespace"):
        assert "save model.state_dict() alone" in said
    if suffix == ".pt" and kind.startswith("of"):
        assert "do not fit 'mlp' with 10 classes" in said and said.count(";") <= 1


def test_safetensors_are_read_too(tmp_path, network):
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    assert read_weights(tmp_path / "w.safetensors", network, "x").keys() == network.state_dict().keys()


@pytest.mark.parametrize("student", ["vit2_w64", "deit_tiny", "swin_t"])
def test_weight_decay_leaves_out_what_sre2ls_rule_leaves_out(student):
    protocol = load_protocol("soft_stored_sre2l")
    model = build_student(student, 10, 32, seed=0)
    decayed, left = make_optimizer(model, protocol.optimizer, protocol.numbers(student, 100, 10)).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert decayed["weight_decay"] > 0 == left["weight_decay"]
    found = {names[id(one)] for one in decayed["params"]}
    assert found == {name for name, one in model.named_parameters() if "weight" in name and one.ndim > 1}
    assert not [name for name in found if "position" in name or "pos_embed" in name or "bias_table" in name]


@pytest.mark.parametrize(("size", "seen"), [(32, 32), (64, 72), (96, 104), (128, 144), (224, 256)])
def test_sevenths_are_rdeds_zoom(size, seen):
    assert round(Scoring(resize="sevenths").zoom(size) * size) == seen
    assert round(load_protocol("soft_online_rded").scoring.zoom(size) * size) == seen


def test_minimax_counts_its_last_smaller_batch():
    for name in ("hard_minimax", "hard_minimax_224"):
        protocol = load_protocol(name)
        found = [protocol.numbers("resnet_ap10", ipc * 10, 10).steps for ipc in (1, 10, 20, 50, 300, 1000)]
        assert found == [3000, 4000, 6000, 12000, 500 * 47, 300 * 157]


def test_at_128_pixels_the_stem_is_that_of_small_images():
    stems = [build_student("resnet18", 10, size, seed=0).conv1.kernel_size for size in (128, 129)]
    assert stems == [(3, 3), (7, 7)]
    assert load_data("digits").image_size == 16
