"""Encoding, noising, guidance, schedulers and inversion, against stock pipelines and loops written by hand."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler, StableDiffusionImg2ImgPipeline

from ddoq_plugin.errors import PriorError
from ddoq_plugin.priors import load_prior
from ddoq_plugin.priors.sampling import SCHEDULERS

CLASSES = ("red square", "green_square", "tench, Tinca tinca")  # those of the fixtures' DiT
SETTINGS = {"strength": 0.7, "guidance_scale": 3.0, "steps": 10, "seeds": [11, 12, 13, 14, 15]}


def generators(seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def noise(seeds):
    return torch.stack([torch.randn(4, 4, 4, generator=own) for own in generators(seeds)])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("strength", "guidance"), [(0.7, 8.0), (0.58, 1.0), (1.0, 2.0)])
def test_stable_diffusion_equals_the_stock_image_to_image_pipeline(
    make_stable_diffusion, latents, class_ids, prediction, strength, guidance
):
    folder = make_stable_diffusion(prediction=prediction)
    prior = load_prior("stable_diffusion", path=folder, device="cpu", template="{} , a photo", negative_prompt="bad")
    prior.bind_classes(CLASSES)
    ours = prior.generate(
        latents, class_ids, strength=strength, guidance_scale=guidance, steps=10, seeds=[11, 12, 13, 14, 15]
    )
    stock = StableDiffusionImg2ImgPipeline.from_pretrained(
        folder, safety_checker=None, requires_safety_checker=False, low_cpu_mem_usage=False
    )
    stock.set_progress_bar_config(disable=True)
    theirs = stock(
        prompt=[f"{CLASSES[number]} , a photo" for number in class_ids],
        negative_prompt=["bad"] * 5,
        image=latents,  # four channels: taken as latents
        strength=strength,
        num_inference_steps=10,
        guidance_scale=guidance,
        generator=generators([11, 12, 13, 14, 15]),
        output_type="pt",
    ).images
    assert theirs.std() > 0.01
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("learned_sigma", [True, False])
def test_dit_from_full_noise_equals_a_loop_by_hand(make_dit, latents, class_ids, learned_sigma):
    prior = load_prior("dit", path=make_dit(learned_sigma=learned_sigma), device="cpu")
    prior.bind_classes(["2", "1", "0"])
    ours = prior.generate(latents, class_ids, strength=1.0, guidance_scale=4.0, steps=8, seeds=range(5), space="noise")
    scheduler, x, labels = prior.scheduler, latents.clone(), 2 - class_ids
    alphas, gap = scheduler.alphas_cumprod, 1000 // 8
    times = [1 + gap * step for step in reversed(range(8))]
    with torch.no_grad():
        for time in times:
            batch_time = torch.full((5,), time)
            conditional = prior.transformer(x, batch_time, labels).sample[:, :4]
            null = prior.transformer(x, batch_time, torch.full((5,), 3)).sample[:, :4]
            epsilon = null + 4.0 * (conditional - null)
            now, then = alphas[time], alphas[time - gap] if time >= gap else alphas[0]
            clean = (x - (1 - now).sqrt() * epsilon) / now.sqrt()
            x = then.sqrt() * clean + (1 - then).sqrt() * epsilon
        by_hand = (prior.vae.decode(x / prior.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    assert by_hand.std() > 0.01
    torch.testing.assert_close(ours, by_hand, atol=1e-5, rtol=0)


def test_encoding_scales_and_samples_the_posterior(prior):
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        posterior = prior.vae.encode(images * 2 - 1).latent_dist
    factor = prior.vae.config.scaling_factor
    assert factor != 1
    torch.testing.assert_close(prior.encode(images), posterior.mean * factor)
    drawn = prior.encode(images, sample=True, seeds=[5, 6, 7])
    torch.testing.assert_close(drawn, (posterior.mean + posterior.std * noise([5, 6, 7])) * factor)
    with pytest.raises(PriorError, match="one seed an image"):
        prior.encode(images, sample=True, seeds=[5])


def test_encoding_takes_bytes_and_resizes(prior):
    images = torch.randint(0, 256, (2, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    torch.testing.assert_close(prior.encode(images), prior.encode(images.float() / 255))
    flat = torch.full((1, 3, 20, 12), 0.25)
    torch.testing.assert_close(prior.encode(flat), prior.encode(flat[:, :, :8, :8]), atol=1e-5, rtol=0)
    for wrong, told in [
        (torch.rand(2, 1, 8, 8), "give \\[B, 3, H, W\\]"),
        (torch.rand(2, 3, 8, 8) * 255, "must lie in \\[0, 1\\]"),
        (torch.full((2, 3, 8, 8), torch.nan), "must lie in \\[0, 1\\]"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.int64), "give uint8"),
    ]:
        with pytest.raises(PriorError, match=told):
            prior.encode(wrong)


def test_strength_zero_decodes_only(prior, latents, class_ids):
    made = prior.generate(latents, class_ids, **SETTINGS | {"strength": 0})
    assert torch.equal(made, prior.decode(latents))
    assert not torch.allclose(made, prior.generate(latents, class_ids, **SETTINGS), atol=1e-3)


def test_guidance_one_is_the_conditional_prediction(prior, latents, class_ids):
    plain = prior.generate(latents, class_ids, **SETTINGS | {"guidance_scale": 1.0})
    near = prior.generate(latents, class_ids, **SETTINGS | {"guidance_scale": 1.0 + 1e-6})
    torch.testing.assert_close(plain, near, atol=1e-4, rtol=0)
    assert not torch.allclose(plain, prior.generate(latents, class_ids, **SETTINGS), atol=1e-4)


def test_classes_and_seeds_matter_and_repeat(prior, latents, class_ids):
    first = prior.generate(latents, class_ids, **SETTINGS)
    assert torch.equal(first, prior.generate(latents, class_ids, **SETTINGS))
    other_class = prior.generate(latents, (class_ids + 1) % 3, **SETTINGS)
    other_seed = prior.generate(latents, class_ids, **SETTINGS | {"seeds": [11, 12, 13, 14, 99]})
    assert (first != other_class).flatten(1).any(dim=1).all()
    assert not torch.allclose(first[4], other_seed[4], atol=1e-3)
    torch.testing.assert_close(first[:4], other_seed[:4])


@pytest.mark.parametrize("scheduler", [None, "EulerAncestralDiscreteScheduler", "DDPMScheduler"])
def test_an_image_does_not_depend_on_its_batch(prior, latents, class_ids, scheduler):
    prior.eta = 0.7
    whole = prior.generate(latents, class_ids, **SETTINGS, scheduler=scheduler)
    pairs = prior.generate(latents, class_ids, **SETTINGS, scheduler=scheduler, batch_size=2)
    order = torch.tensor([3, 0, 4])
    picked = prior.generate(
        latents[order],
        class_ids[order],
        **SETTINGS | {"seeds": [SETTINGS["seeds"][number] for number in order]},
        scheduler=scheduler,
    )
    torch.testing.assert_close(pairs, whole, atol=1e-4, rtol=0)
    torch.testing.assert_close(picked, whole[order], atol=1e-4, rtol=0)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_makes_finite_images_that_depend_on_the_seed_alone(prior, latents, class_ids, scheduler):
    torch.manual_seed(0)
    first = prior.generate(latents, class_ids, **SETTINGS, scheduler=scheduler)
    torch.manual_seed(1)
    assert torch.equal(first, prior.generate(latents, class_ids, **SETTINGS, scheduler=scheduler))
    from_noise = prior.generate(noise(range(5)), class_ids, **SETTINGS, scheduler=scheduler, space="noise")
    assert first.std() > 0.01 and from_noise.std() > 0.01


def test_more_strength_leads_further_from_the_latent(prior, latents, class_ids):
    clean = prior.decode(latents)
    distances = [
        (prior.generate(latents, class_ids, **SETTINGS | {"strength": strength}) - clean).square().mean()
        for strength in (0.1, 0.5, 1.0)
    ]
    assert distances[0] < distances[1] < distances[2]


def test_own_scheduler_is_the_pipelines(sd_folder, dit_folder):
    assert isinstance(load_prior("stable_diffusion", path=sd_folder, device="cpu").scheduler, PNDMScheduler)
    assert isinstance(load_prior("dit", path=dit_folder, device="cpu").scheduler, DDIMScheduler)


def test_settings_out_of_range_fail_before_any_forward_pass(prior, latents, class_ids, monkeypatch):
    def used(*_, **__):
        raise AssertionError("the network was run")

    monkeypatch.setattr(type(prior), "_predict", used)
    monkeypatch.setattr(type(prior), "_decode", used)
    nan = latents.clone()
    nan[3, 0, 1, 1] = torch.nan
    for change, told in [
        ({"strength": 1.2}, "strength is 1.2"),
        ({"strength": -0.1}, "strength is -0.1"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"strength": 0.05}, "runs no step"),
        ({"guidance_scale": 0.0}, "at least 1"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 1001}, "from 1 to 1000"),
        ({"scheduler": "DDIMShceduler"}, "did you mean 'DDIMScheduler'"),
        ({"scheduler": "DPMSolverSDEScheduler"}, "unknown scheduler"),
        ({"space": "noises"}, "'latent' or 'noise'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seeds": [1]}, "5 latents, 5 class ids and 1 seeds"),
    ]:
        with pytest.raises(PriorError, match=told):
            prior.generate(latents, class_ids, **SETTINGS | change)
    with pytest.raises(PriorError, match=r"index 3 \(class 'red square'\)"):
        prior.generate(nan, class_ids, **SETTINGS)
    with pytest.raises(PriorError, match="first at index 3"):
        prior.decode(nan)
    with pytest.raises(PriorError, match=r"takes \[B, 4, 4, 4\]"):
        prior.generate(latents.flatten(1), class_ids, **SETTINGS)
    with pytest.raises(PriorError, match="class ids run from 1 to 3"):
        prior.generate(latents, class_ids + 1, **SETTINGS)
    with pytest.raises(PriorError, match="steps is 0"):
        prior.invert(latents, class_ids, steps=0)


def test_networks_that_return_nan_are_named(prior, latents, class_ids, monkeypatch):
    monkeypatch.setattr(type(prior), "_predict", lambda self, noisy, time, condition: noisy * torch.nan)
    with pytest.raises(PriorError, match="the denoiser's output has NaN"):
        prior.generate(latents, class_ids, **SETTINGS)
    with pytest.raises(PriorError, match="the inversion's output has NaN"):
        prior.invert(latents, class_ids, steps=3)
    with torch.no_grad():
        prior.vae.quant_conv.bias.fill_(torch.nan)
        prior.vae.post_quant_conv.bias.fill_(torch.nan)
    with pytest.raises(PriorError, match="the encoder's output has NaN"):
        prior.encode(torch.rand(2, 3, 8, 8))
    with pytest.raises(PriorError, match="the decoder's output has NaN"):
        prior.decode(latents)


def test_classes_must_be_bound_first(dit_folder, latents, class_ids):
    prior = load_prior("dit", path=dit_folder, device="cpu")
    with pytest.raises(PriorError, match="bind_classes"):
        prior.generate(latents, class_ids, **SETTINGS)


def test_no_images_give_no_images(prior, latents, class_ids):
    none = prior.generate(latents[:0], class_ids[:0], **SETTINGS | {"seeds": []})
    assert none.shape == (0, 3, 8, 8) and prior.encode(none).shape == (0, 4, 4, 4)


def test_inversion_with_one_step_solves_the_step_it_takes(make_dit, latents, class_ids):
    """With a predictor that ignores its input, DDIM is linear and its inverse exact."""
    prior = load_prior("dit", path=make_dit(), device="cpu")
    prior.bind_classes(["0", "1", "2"])
    constant = noise([7])[0]
    prior._predict = lambda noisy, time, condition: constant.expand_as(noisy)
    inverted = prior.invert(latents, class_ids, steps=7)
    back = prior.generate(inverted, class_ids, strength=0.2, guidance_scale=1, steps=7, seeds=range(5), space="noise")
    torch.testing.assert_close(back, prior.decode(latents), atol=1e-4, rtol=0)
    assert not torch.allclose(inverted, latents, atol=0.1)


@pytest.mark.parametrize(("spacing", "steps"), [("leading", 6), ("trailing", 10), ("linspace", 6)])
def test_inversion_and_generation_use_the_same_times(make_dit, latents, class_ids, spacing, steps):
    prior = load_prior("dit", path=make_dit(timestep_spacing=spacing), device="cpu")
    prior.bind_classes(["0", "1", "2"])
    seen: list[float] = []
    predict = prior._predict

    def spy(noisy, time, condition):
        seen.append(float(time))
        return predict(noisy, time, condition)

    prior._predict = spy
    inverted = prior.invert(latents, class_ids, steps=steps)
    upwards = seen.copy()
    seen.clear()
    prior.generate(inverted, class_ids, strength=1, guidance_scale=1, steps=steps, seeds=range(5), space="noise")
    assert upwards == sorted(upwards) and seen == upwards[::-1] and len(seen) == steps
