"""Fast paths: none changes an image but by rounding, and no work is done twice."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import nn

from ddoq_plugin.compute import onednn
from ddoq_plugin.errors import PriorError
from ddoq_plugin.priors import load_prior
from ddoq_plugin.priors.speed import LARGE, Compiled, arrange

CLASSES = ("red square", "green_square", "tench, Tinca tinca")  # those of the fixtures' DiT
SETTINGS = {"strength": 0.7, "guidance_scale": 3.0, "steps": 6, "seeds": [11, 12, 13, 14, 15]}


@pytest.fixture(params=["dit", "stable_diffusion"])
def load(request, dit_folder, sd_folder):
    """A loader of each latent diffusion prior, with its classes bound."""
    folder = {"dit": dit_folder, "stable_diffusion": sd_folder}[request.param]

    def loaded(**options):
        prior = load_prior(request.param, path=folder, device="cpu", **options)
        prior.bind_classes(CLASSES)
        return prior

    return loaded


def denoiser(prior) -> nn.Module:
    return prior.transformer if prior.name == "dit" else prior.unet


def spy_on(prior, monkeypatch) -> list[int]:
    """Keep the batch of every forward pass of the denoiser."""
    seen: list[int] = []
    forward = denoiser(prior).forward

    def counted(*arguments, **named):
        seen.append(len(arguments[0]))
        return forward(*arguments, **named)

    monkeypatch.setattr(denoiser(prior), "forward", counted)
    return seen


def test_decoding_in_slices_equals_decoding_at_once(load, latents):
    torch.testing.assert_close(load(batch_size=2).decode(latents), load().decode(latents), atol=1e-5, rtol=0)


def test_channels_last_gives_the_same_images(load, latents, class_ids):
    plain, last = load(channels_last=False), load(channels_last=True)
    weights = [module.weight for module in last.vae.modules() if isinstance(module, nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    assert not all(weight.is_contiguous() for weight in weights)
    assert all(parameter.is_contiguous() for parameter in plain.vae.parameters())
    first, second = (prior.generate(latents, class_ids, **SETTINGS) for prior in (plain, last))
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(plain.encode(images), last.encode(images), atol=1e-5, rtol=0)


def test_large_networks_are_channels_last_by_default():
    with torch.device("meta"):
        small, large = nn.Conv2d(4, 4, 3), nn.Conv2d(2048, LARGE // (2048 * 9) + 1, 3)
    for network in (small, large):
        arrange(network, None)
    assert small.weight.is_contiguous()
    assert large.weight.is_contiguous(memory_format=torch.channels_last) and not large.weight.is_contiguous()


def test_bfloat16_stays_near_float32(load, latents, class_ids):
    """bfloat16 keeps 8 bits: the mean difference of a pixel stays below 2 % of its range."""
    exact, coarse = load(), load(dtype="bfloat16")
    assert denoiser(coarse).dtype == coarse.vae.dtype == torch.bfloat16
    first, second = (prior.generate(latents, class_ids, **SETTINGS) for prior in (exact, coarse))
    assert second.dtype == torch.float32 and 0 < (first - second).abs().mean() < 0.02
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert 0 < (exact.encode(images) - coarse.encode(images)).abs().mean() < 0.02


def test_attention_is_torchs_fused_one(load):
    processors = [module.processor for module in denoiser(load()).modules() if hasattr(module, "processor")]
    assert processors and all(isinstance(processor, AttnProcessor2_0) for processor in processors)


@pytest.mark.skipif(onednn._product() is None, reason="oneDNN has no AVX-512 product here")
def test_linear_layers_are_onednns(load):
    layers = [module for module in denoiser(load()).modules() if isinstance(module, nn.Linear)]
    assert layers and all(isinstance(layer, onednn.OneDnnLinear) for layer in layers)


@pytest.mark.parametrize(("guidance", "branches"), [(3.0, 2), (1.0, 1)])
def test_both_branches_of_guidance_are_one_pass_and_none_is_idle(
    load, latents, class_ids, monkeypatch, guidance, branches
):
    prior = load(batch_size=3)
    seen = spy_on(prior, monkeypatch)
    # DDIM: one pass a step
    prior.generate(latents, class_ids, **SETTINGS | {"guidance_scale": guidance}, scheduler="DDIMScheduler")
    assert seen == [3 * branches] * (len(seen) // 2) + [2 * branches] * (len(seen) // 2)
    assert len(seen) == 2 * 4  # 4 of 6 steps, two batches


def test_times_are_set_once_a_call(load, latents, class_ids, monkeypatch):
    prior = load(batch_size=1)
    calls = []
    kind = type(prior.scheduler)
    original = kind.set_timesteps

    def counted(self, *arguments, **named):
        calls.append(arguments)
        return original(self, *arguments, **named)

    monkeypatch.setattr(kind, "set_timesteps", counted)
    made = prior.generate(latents, class_ids, **SETTINGS)
    assert len(calls) == 1
    torch.testing.assert_close(prior.generate(latents, class_ids, **SETTINGS, batch_size=5), made, atol=1e-4, rtol=0)


def test_prompts_are_embedded_once_a_binding(sd_folder, latents, class_ids, monkeypatch):
    prior = load_prior("stable_diffusion", path=sd_folder, device="cpu", batch_size=2)
    prior.bind_classes(CLASSES)
    embedded: list[list[str]] = []
    original = prior.pipeline.encode_prompt

    def counted(prompts, *arguments):
        embedded.append(prompts)
        return original(prompts, *arguments)

    monkeypatch.setattr(prior.pipeline, "encode_prompt", counted)
    first = prior.generate(latents, class_ids, **SETTINGS)
    assert embedded == [list(CLASSES), [prior.negative_prompt]]
    prior.generate(latents, class_ids, **SETTINGS)
    assert len(embedded) == 2
    prior.bind_classes(CLASSES[::-1])
    torch.testing.assert_close(prior.generate(latents, 2 - class_ids, **SETTINGS), first, atol=1e-4, rtol=0)


def test_prompts_without_guidance_need_no_null(sd_folder, latents, class_ids, monkeypatch):
    prior = load_prior("stable_diffusion", path=sd_folder, device="cpu")
    prior.bind_classes([f"class {number}" for number in range(40)])
    embedded: list[int] = []
    original = prior.pipeline.encode_prompt

    def counted(prompts, *arguments):
        embedded.append(len(prompts))
        return original(prompts, *arguments)

    monkeypatch.setattr(prior.pipeline, "encode_prompt", counted)
    prior.generate(latents, class_ids + 35, **SETTINGS | {"guidance_scale": 1.0})
    assert embedded == [8]  # classes 32 to 39 alone, and no null


def test_tiles_are_taken_where_one_image_does_not_fit(sd_folder, monkeypatch):
    def load(**options):
        return load_prior("stable_diffusion", path=sd_folder, device="cpu", image_size=32, **options)

    def narrow(prior):
        forward = prior.vae.decoder.forward

        def small_only(sample, *rest):
            if sample.shape[-1] > 8:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return forward(sample, *rest)

        monkeypatch.setattr(prior.vae.decoder, "forward", small_only)

    latents = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    plain, prior, asked, forbidden = load(), load(), load(tiling=True), load(tiling=False)
    whole = plain.decode(latents)
    narrow(prior)
    with pytest.warns(UserWarning, match="is done in tiles from now on"):
        tiled = prior.decode(latents)
    assert tiled.shape == whole.shape and 0 < (tiled - whole).abs().mean() < 0.1
    torch.testing.assert_close(asked.decode(latents), tiled, atol=1e-5, rtol=0)
    assert asked.fingerprint != prior.fingerprint == plain.fingerprint
    # encoding is not tiled because decoding is
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(asked.encode(images), plain.encode(images), atol=1e-5, rtol=0)
    narrow(forbidden)
    with pytest.raises(PriorError, match="one image's decode pass"):
        forbidden.decode(latents)


def test_a_compiler_that_fails_leaves_the_network_as_it_is(load, latents, class_ids, monkeypatch):
    def failing(*_, **__):
        raise RuntimeError("InvalidCxxCompiler: no working C++ compiler found")

    monkeypatch.setattr(torch, "compile", lambda network: failing)
    plain, prior = load(), load(compile=True)
    assert prior.fingerprint == plain.fingerprint
    with pytest.warns(UserWarning, match="torch.compile failed .*no working C\\+\\+ compiler.*runs uncompiled") as told:
        made = prior.generate(latents, class_ids, **SETTINGS)
    assert len([one for one in told if "torch.compile" in str(one.message)]) == 1
    assert torch.equal(made, plain.generate(latents, class_ids, **SETTINGS))


def test_a_lack_of_memory_is_no_failure_to_compile(monkeypatch):
    def hungry(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch, "compile", lambda network: hungry)
    compiled = Compiled(nn.Linear(2, 2))
    with pytest.raises(torch.OutOfMemoryError):
        compiled(torch.zeros(1, 2))
    assert compiled.call is hungry


@pytest.mark.slow
def test_compiled_images_are_the_same(dit_folder, latents, class_ids):
    made = []
    for compiled in (False, True):
        prior = load_prior("dit", path=dit_folder, device="cpu", compile=compiled)
        prior.bind_classes(CLASSES)
        made.append(prior.generate(latents, class_ids, **SETTINGS))
    if prior._call.call is prior.transformer:
        pytest.skip("torch.compile finds no working compiler here")
    torch.testing.assert_close(made[0], made[1], atol=1e-4, rtol=0)
