"""Full-size architectures: parameters and FLOPs as published, in the stock layout. Weights are never made here."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import pytest
import torch

from ddoq_plugin.errors import PriorError
from ddoq_plugin.planning.model_cards import PUBLISHED
from ddoq_plugin.priors import load_prior

_FILE = Path(__file__).parents[2] / "benchmarks" / "random_pipelines.py"
_SPEC = importlib.util.spec_from_file_location("random_pipelines", _FILE)
random_pipelines = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(random_pipelines)
random_pipeline, random_prior = random_pipelines.random_pipeline, random_pipelines.random_prior


@pytest.fixture(scope="module")
def networks():
    """The networks of every published prior, on the meta device."""
    made = {}
    with torch.device("meta"):
        for name in PUBLISHED:
            made[name] = random_pipelines.build_networks(name)
    return made


def counted(call) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.device("meta"):
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(networks, name):
    components = {part: sum(p.numel() for p in network.parameters()) for part, network in networks[name].items()}
    assert components == PUBLISHED[name].components
    millions = {"vae": 83.7, "unet": 859.5, "text_encoder": 123.1}  # the model cards and papers say 84, 860, 123
    for part, count in components.items():
        if part != "transformer":
            assert count / 1e6 == pytest.approx(millions[part], abs=0.06)
    assert PUBLISHED[name].weights_gb["bfloat16"] == pytest.approx(sum(components.values()) * 2e-9)


@pytest.mark.parametrize("name", ["dit_xl_2_256", "dit_xl_2_512"])
def test_dit_has_675_million_parameters_once_the_copies_of_its_embedders_are_left_out(networks, name):
    transformer = networks[name]["transformer"]
    embedders = sum(p.numel() for p in transformer.transformer_blocks[0].norm1.emb.parameters())
    distinct = PUBLISHED[name].components["transformer"] - 27 * embedders
    # at 256 pixels the paper's count has the fixed position embedding of 256 tokens too
    assert (distinct + 256 * 1152) / 1e6 == pytest.approx(675.1, abs=0.05)


@pytest.mark.parametrize("name", PUBLISHED)
def test_flops_are_recounted(networks, name):
    facts, parts = PUBLISHED[name], networks[name]
    time = torch.empty(1, dtype=torch.int64, device="meta")
    latent = torch.empty(1, *facts.latent_shape, device="meta")
    if "unet" in parts:
        text = torch.empty(1, 77, 768, device="meta")
        assert counted(lambda: parts["unet"](latent, time, encoder_hidden_states=text)) == facts.forward_flops
        tokens = torch.empty(1, 77, dtype=torch.int64, device="meta")
        assert counted(lambda: parts["text_encoder"](tokens)) == facts.text_flops
    else:
        assert counted(lambda: parts["transformer"](latent, time, class_labels=time)) == facts.forward_flops
        assert facts.text_flops == 0
    image = torch.empty(1, 3, facts.image_size, facts.image_size, device="meta")
    assert counted(lambda: parts["vae"].encode(image)) == facts.encode_flops
    assert counted(lambda: parts["vae"].decode(latent)) == facts.decode_flops


@pytest.mark.parametrize(("size", "gmac"), [(256, 118.6), (512, 524.6)])
def test_dit_costs_what_its_paper_says(size, gmac):
    """Table 4 of Peebles & Xie (2023) counts multiply-adds and calls them FLOPs."""
    assert PUBLISHED[f"dit_xl_2_{size}"].forward_flops / 2e9 == pytest.approx(gmac, rel=1e-3)


@pytest.fixture
def shrunk(monkeypatch):
    """The published pipelines with small latents, few channels and few layers."""
    for name, facts in PUBLISHED.items():
        small = dataclasses.replace(facts, image_size=64, latent_shape=(4, 8, 8))
        monkeypatch.setitem(random_pipelines.PUBLISHED, name, small)
    monkeypatch.setitem(random_pipelines._UNET, "sample_size", 8)
    monkeypatch.setitem(random_pipelines._DIT, "num_layers", 1)
    monkeypatch.setitem(random_pipelines._DIT, "attention_head_dim", 2)
    monkeypatch.setitem(random_pipelines._VAE, "block_out_channels", (4, 4, 4, 4))
    monkeypatch.setitem(random_pipelines._VAE, "norm_num_groups", 2)
    for key, value in {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "cross_attention_dim": 8}.items():
        monkeypatch.setitem(random_pipelines._UNET, key, value)
    narrow = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    for key, value in narrow.items():
        monkeypatch.setitem(random_pipelines._TEXT, key, value)


@pytest.mark.parametrize("name", ["dit_xl_2_256", "stable_diffusion_1_5"])
def test_a_random_pipeline_is_written_in_the_stock_layout(tmp_path, shrunk, name):
    facts = PUBLISHED[name]
    before = torch.random.get_rng_state()
    random_pipeline(name, tmp_path / "made", "bfloat16", seed=3)
    assert torch.equal(before, torch.random.get_rng_state())
    from_disk = load_prior(facts.registry_name, path=tmp_path / "made", device="cpu", dtype="bfloat16", batch_size=1)
    in_memory = random_prior(name, device="cpu", dtype="bfloat16", batch_size=1, seed=3)
    other = random_prior(name, device="cpu", dtype="bfloat16", batch_size=1, seed=4)
    made = []
    latents = torch.randn(1, *facts.latent_shape, generator=torch.Generator().manual_seed(0))
    for prior in (from_disk, in_memory, other):
        assert (prior.image_size, prior.latent_shape) == (facts.image_size, facts.latent_shape)
        prior.bind_classes(["3", "999"])
        made.append(prior.generate(latents, torch.tensor([1]), strength=0.5, guidance_scale=2, steps=2, seeds=[0]))
    assert torch.equal(made[0], made[1]) and not torch.equal(made[1], made[2])
    assert in_memory.fingerprint != other.fingerprint


def test_prompts_of_the_stand_in_tokenizer_differ_and_are_77_tokens_long():
    tokens = random_pipelines.byte_tokenizer(49408, 77)(
        ["tench, Tinca tinca", "tench, Tinca tincb", "x" * 200], padding="max_length", truncation=True
    ).input_ids
    assert [len(row) for row in tokens] == [77] * 3 and tokens[0] != tokens[1]
    assert all(row[0] == 49406 for row in tokens) and tokens[0][-1] == tokens[2][-1] == 49407


def test_unknown_names_are_told():
    with pytest.raises(PriorError, match="did you mean 'dit_xl_2_256'"):
        random_pipeline("dit_xl_2_255")
    with pytest.raises(PriorError, match="unknown dtype"):
        random_pipeline("dit_xl_2_256", dtype="int8")
