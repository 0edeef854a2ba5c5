"""What a prior trained on real digits can do: a shortened recipe in the usual run, the whole one when asked for."""

from __future__ import annotations

import json

import pytest
import torch

from ddoq_plugin.data import load_data
from ddoq_plugin.priors import load_prior, load_recipe, train_prior


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.fixture(scope="module")
def judge(digits):
    """A nearest-neighbour classifier of real training images: float images [B, 3, 16, 16] -> classes."""
    known = digits.train.images().float().mean(dim=1).flatten(1) / 255

    def classify(images: torch.Tensor) -> torch.Tensor:
        distances = torch.cdist(images.mean(dim=1).flatten(1), known)
        return digits.train.labels[distances.topk(3, largest=False).indices].mode(dim=1).values

    right = classify(digits.test.images().float() / 255) == digits.test.labels
    assert right.float().mean() > 0.95
    return classify


def trained(folder, digits, recipe):
    train_prior(digits, folder, recipe, 0, progress=False, device="cpu")
    prior = load_prior("dit", path=folder, device="cpu")
    prior.bind_classes(digits.class_names)
    return prior


@pytest.fixture(scope="module")
def prior(tmp_path_factory, digits):
    recipe = load_recipe("digits")
    changes = {"steps": 200, "batch_size": 32}
    short = recipe.model_copy(
        update={
            "autoencoder": recipe.autoencoder.model_copy(update=changes),
            "denoiser": recipe.denoiser.model_copy(update=changes | {"steps": 300, "ema_decay": 0.98}),
        }
    )
    return trained(tmp_path_factory.mktemp("prior") / "digits", digits, short)


def class_means(prior, digits, copies: int) -> tuple[torch.Tensor, torch.Tensor]:
    latents = prior.encode(digits.train.images())
    means = torch.stack([latents[digits.train.labels == number].mean(dim=0) for number in range(10)])
    return means.repeat_interleave(copies, dim=0), torch.arange(10).repeat_interleave(copies)


def agreement(prior, judge, digits, copies: int, **settings) -> float:
    starts, ids = class_means(prior, digits, copies)
    made = prior.generate(starts, ids, guidance_scale=3.0, steps=10, seeds=range(len(ids)), **settings)
    return float((judge(made) == ids).float().mean())


def test_generated_digits_are_of_their_class(prior, judge, digits):
    assert agreement(prior, judge, digits, 3, strength=0.5) > 0.8
    # from pure noise the class can come from the condition alone (guessing would agree in a tenth)
    starts, ids = class_means(prior, digits, 5)
    noise = torch.randn(starts.shape, generator=torch.Generator().manual_seed(0))
    made = prior.generate(noise, ids, strength=1, guidance_scale=3.0, steps=10, seeds=range(len(ids)), space="noise")
    assert (judge(made) == ids).float().mean() > 0.4


def test_inversion_comes_back_the_more_exactly_the_more_steps(prior, digits):
    latents, ids = prior.encode(digits.test.images(range(20))), digits.test.labels[:20]
    errors = []
    for steps in (5, 20, 100):
        noise = prior.invert(latents, ids, steps=steps)
        back = prior.generate(noise, ids, strength=1, guidance_scale=1, steps=steps, seeds=range(20), space="noise")
        errors.append(float((back - prior.decode(latents)).square().mean()))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-3
    assert (noise - latents).square().mean() > 0.1


@pytest.mark.slow
def test_whole_recipe_makes_clean_digits(tmp_path, judge, digits):
    prior = trained(tmp_path, digits, load_recipe("digits"))
    assert json.loads((tmp_path / "prior_report.json").read_text())["psnr_val_db"] > 32
    for strength in (0.0, 0.3, 0.5, 0.7, 1.0):
        assert agreement(prior, judge, digits, 10, strength=strength) > 0.95
