"""Pipelines of the published priors' architectures with random weights.

Speed and memory do not depend on what the weights are, so a pipeline with random weights measures them honestly where
the published weights cannot be had. The images of such a pipeline mean nothing.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ddoq_plugin.errors import PriorError, nearest
from ddoq_plugin.planning.model_cards import PUBLISHED, PublishedPrior
from ddoq_plugin.priors.base import pick_device
from ddoq_plugin.priors.dit import DiTPrior
from ddoq_plugin.priors.networks import seeded
from ddoq_plugin.priors.pipelines import freeze, pick_dtype
from ddoq_plugin.priors.stable_diffusion import wrap_stable_diffusion

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from ddoq_plugin.priors.base import Prior

# the auto-encoder of Stable Diffusion 1.x (CompVis/stable-diffusion, configs/stable-diffusion/v1-inference.yaml;
# vae/config.json of the hub's stable-diffusion-v1-5); DiT's is the same one, fine-tuned (sd-vae-ft-ema)
_VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
}
# Peebles & Xie, "Scalable Diffusion Models with Transformers", 2023, table 1 (XL: 28 layers, width 1152, 16 heads;
# patch 2); facebookresearch/DiT, models.py and diffusion/__init__.py (linear schedule of 1000 steps, learned variance)
_DIT: dict[str, Any] = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 28,
    "patch_size": 2,
    "num_embeds_ada_norm": 1000,
    "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": False,
}
_DIT_SCHEDULER = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "clip_sample": False}
# CompVis/stable-diffusion, configs/stable-diffusion/v1-inference.yaml; unet/config.json of stable-diffusion-v1-5
_UNET: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,  # the number of heads: diffusers keeps this name for it
    "norm_num_groups": 32,
}
# openai/CLIP, ViT-L/14's text transformer; text_encoder/config.json of stable-diffusion-v1-5
_TEXT: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
_SD_SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}


def random_pipeline(
    name: str, folder: str | Path | None = None, dtype: str | torch.dtype = "float32", seed: int = 0
) -> DiffusionPipeline:
    """Return a published pipeline (a name of ``PUBLISHED``) with random weights of ``dtype``, on the CPU.

    ``folder`` writes it in the stock layout too, so that ``load_prior`` reads it like published weights; None writes
    nothing. The tokenizer of Stable Diffusion is a stand-in that knows single bytes (the published vocabulary is
    data, not architecture): prompts have their usual 77 tokens. Raises PriorError for an unknown name or dtype.
    """
    facts = _facts(name)
    chosen = pick_dtype(dtype, torch.device("cpu"))
    with seeded(seed):
        build = _dit if facts.registry_name == "dit" else _stable_diffusion
        pipeline = build(facts, chosen)
    if folder is not None:
        pipeline.save_pretrained(folder)
    return pipeline


def random_prior(
    name: str,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    batch_size: int | str = "auto",
    seed: int = 0,
    **options: object,
) -> Prior:
    """Return the prior of :func:`random_pipeline` without writing its weights; ``options`` as for ``load_prior``."""
    facts = _facts(name)
    device = pick_device(device)
    dtype = pick_dtype(dtype, device)
    pipeline = freeze(random_pipeline(name, None, dtype, seed), dtype, device)
    identity = hashlib.sha256(f"random {name} {seed} {dtype} {sorted(options.items())}".encode()).hexdigest()
    if facts.registry_name == "stable_diffusion":
        return wrap_stable_diffusion(pipeline, identity, device, batch_size, **options)
    return DiTPrior(pipeline, [], None, None, identity, 0.0, device, batch_size, **options)


def build_networks(name: str) -> dict[str, torch.nn.Module]:
    """Return the untrained networks of a published pipeline by component, on torch's current default device."""
    from diffusers import AutoencoderKL, DiTTransformer2DModel, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    facts = _facts(name)
    if facts.registry_name == "dit":
        networks = {"transformer": DiTTransformer2DModel(sample_size=facts.latent_shape[-1], **_DIT)}
    else:
        networks = {"unet": UNet2DConditionModel(**_UNET), "text_encoder": CLIPTextModel(CLIPTextConfig(**_TEXT))}
    vae_size = 512 if facts.registry_name == "stable_diffusion" else 256
    return networks | {"vae": AutoencoderKL(sample_size=vae_size, **_VAE)}


def _facts(name: str) -> PublishedPrior:
    if name not in PUBLISHED:
        raise PriorError(f"unknown published prior {name!r}{nearest(name, PUBLISHED)} (known: {', '.join(PUBLISHED)})")
    return PUBLISHED[name]


def _dit(facts: PublishedPrior, dtype: torch.dtype) -> DiffusionPipeline:
    from diffusers import DDIMScheduler, DiTPipeline

    return DiTPipeline(**_networks(facts, dtype), scheduler=DDIMScheduler(**_DIT_SCHEDULER))


def _stable_diffusion(facts: PublishedPrior, dtype: torch.dtype) -> DiffusionPipeline:
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    return StableDiffusionPipeline(
        **_networks(facts, dtype),
        tokenizer=byte_tokenizer(_TEXT["vocab_size"], _TEXT["max_position_embeddings"]),
        scheduler=PNDMScheduler(**_SD_SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _networks(facts: PublishedPrior, dtype: torch.dtype) -> dict[str, torch.nn.Module]:
    name = next(name for name, found in PUBLISHED.items() if found is facts)
    return {part: torch.nn.Module.to(network, dtype=dtype).eval() for part, network in build_networks(name).items()}


def byte_tokenizer(vocabulary_size: int, length: int):
    """Return a ``CLIPTokenizer`` of the 256 bytes, alone and at a word's end, whose last two ids are start and end."""
    import tempfile

    from transformers import CLIPTokenizer

    start, end = "<|startoftext|>", "<|endoftext|>"
    # byte-level BPE writes a byte that is not printable as the character 256 + its rank among those
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + rank) for rank in range(len(hidden))]
    vocabulary = {token: number for number, token in enumerate(letters + [f"{letter}</w>" for letter in letters])}
    vocabulary |= {start: vocabulary_size - 2, end: vocabulary_size - 1}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
        settings = {"model_max_length": length, "pad_token": end}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder)
