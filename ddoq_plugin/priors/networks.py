"""The stock diffusers modules of an embedded prior, built from a recipe."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel
from torch import nn

from .recipe import AutoencoderRecipe, DenoiserRecipe


def build_autoencoder(recipe: AutoencoderRecipe, image_size: int, seed: int) -> AutoencoderKL:
    """Return an untrained auto-encoder for RGB images of ``image_size`` pixels, initialised from ``seed``."""
    levels = len(recipe.channels)
    with seeded(seed):
        return AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=recipe.channels,
            layers_per_block=recipe.layers_per_block,
            latent_channels=recipe.latent_channels,
            norm_num_groups=recipe.norm_groups,
            mid_block_add_attention=recipe.mid_attention,
            sample_size=image_size,
            scaling_factor=1.0,  # the latents are standardised by fold_standardisation instead
        )


def build_denoiser(
    recipe: DenoiserRecipe, latent_channels: int, latent_size: int, num_classes: int, seed: int
) -> DiTTransformer2DModel:
    """Return an untrained class-conditional DiT whose class ``num_classes`` is the null class.

    The adaptive layer norms and the output layer start at zero ("adaLN-Zero", Peebles & Xie, "Scalable Diffusion Models
    with Transformers", 2023, section 3.2), which the diffusers class leaves to the caller."""
    with seeded(seed):
        model = DiTTransformer2DModel(
            num_attention_heads=recipe.heads,
            attention_head_dim=recipe.width // recipe.heads,
            in_channels=latent_channels,
            num_layers=recipe.layers,
            sample_size=latent_size,
            patch_size=recipe.patch_size,
            num_embeds_ada_norm=num_classes,
        )
    for block in model.transformer_blocks:
        # each block embeds the label anew and would drop it on its own; the training loop drops it once for all
        block.norm1.emb.class_embedder.dropout_prob = 0.0
    for layer in (*(block.norm1.linear for block in model.transformer_blocks), model.proj_out_1, model.proj_out_2):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return model


def build_scheduler(recipe: DenoiserRecipe) -> DDIMScheduler:
    """Return the DDIM scheduler that is saved with the prior (settings as in Stable Diffusion's scheduler config)."""
    return DDIMScheduler(
        beta_start=recipe.beta_start,
        beta_end=recipe.beta_end,
        beta_schedule=recipe.beta_schedule,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=recipe.prediction,
    )


@torch.no_grad()
def fold_standardisation(vae: AutoencoderKL, mean: torch.Tensor, std: torch.Tensor) -> None:
    """Change ``vae`` in place so that its latents are (z - mean) / std, channel by channel ([C] each).

    The affine map goes into the 1x1 convolution behind the encoder (whose second half gives log variances, hence
    -2 log std) and its inverse into the one before the decoder: images decode as before, and the pipeline needs no
    scaling factor."""
    channels = mean.numel()
    inverse = torch.cat([1 / std, torch.ones_like(std)])
    vae.quant_conv.weight.mul_(inverse[:, None, None, None])
    vae.quant_conv.bias.mul_(inverse)
    vae.quant_conv.bias[:channels] -= mean / std
    vae.quant_conv.bias[channels:] -= 2 * std.log()
    vae.post_quant_conv.bias += (vae.post_quant_conv.weight * mean[None, :, None, None]).sum(dim=(1, 2, 3))
    vae.post_quant_conv.weight.mul_(std[None, :, None, None])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initialise modules from ``seed`` and give torch's global generator back as it was (modules know no other)."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
