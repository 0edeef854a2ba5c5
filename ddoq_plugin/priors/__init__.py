"""Priors: generative models that encode images to latents and turn (noised) latents back into images of a class.

``load_prior("dit", path=folder)`` reads any diffusers pipeline of the kind; ``train_prior(data, folder, recipe, seed)``
makes a small one, in the same layout, where no pretrained model fits."""

from typing import TYPE_CHECKING

from ..lazy_imports import lazy_names
from ..registry import Entry

if TYPE_CHECKING:
    from .base import Prior
    from .loading import load_prior
    from .recipe import PriorRecipe, load_recipe, recipe_names
    from .training import train_prior

ENTRIES = [
    Entry(
        "dit",
        "ddoq_plugin.priors.dit:load_dit",
        summary="class-conditional diffusion transformer: a DiTPipeline folder or hub id",
        flags={"needs_path": True, "can_denoise": True},
    ),
    Entry(
        "stable_diffusion",
        "ddoq_plugin.priors.stable_diffusion:load_stable_diffusion",
        summary="text-to-image diffusion with prompts from class names: a StableDiffusionPipeline folder or hub id",
        flags={"needs_path": True, "can_denoise": True},
    ),
    Entry(
        "autoencoder",
        "ddoq_plugin.priors.autoencoder:load_autoencoder",
        summary="an AutoencoderKL or AutoencoderTiny alone: encodes and decodes, for methods at strength 0",
        flags={"needs_path": True, "can_denoise": False},
    ),
    Entry(
        "pixel",
        "ddoq_plugin.priors.pixel:load_pixel",
        summary="no encoder: the latents are the pixels, and generation only decodes",
        flags={"needs_path": False, "can_denoise": False},
    ),
]

__all__ = ["ENTRIES", "Prior", "load_prior", "train_prior", "PriorRecipe", "load_recipe", "recipe_names"]
__getattr__, __dir__ = lazy_names(__name__)
