"""A folder shaped as ImageNet's with a few small images, and a tiny random DiT pipeline for its classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

WNIDS = ("n01440764", "n02102040", "n02979186", "n03000684")  # of ImageNette


def make_images(root: Path, wnids=WNIDS, train: int = 12, test: int = 4, size: int = 32) -> Path:
    """Write ``train/<wnid>/*.JPEG`` and ``val/<wnid>/*.JPEG``: coarse random pictures around a colour of the class."""
    rng = np.random.default_rng(0)
    for wnid in wnids:
        colour = rng.integers(60, 190, 3)
        for part, count in (("train", train), ("val", test)):
            (root / part / wnid).mkdir(parents=True)
            for number in range(count):
                coarse = np.clip(colour + rng.normal(0, 40, (4, 4, 3)), 0, 255).astype(np.uint8)
                picture = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
                picture.save(root / part / wnid / f"{wnid}_{number}.JPEG")
    return root


def save_dit(folder: Path, class_names) -> Path:
    """Write an untrained ``DiTPipeline`` of 8x8 pixels."""
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8),
            norm_num_groups=4,
            scaling_factor=0.5,
            mid_block_add_attention=False,
        )
        transformer = DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=1,
            sample_size=4,
            patch_size=2,
            num_embeds_ada_norm=len(class_names),
        )
        scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1)
        DiTPipeline(transformer=transformer, vae=vae, scheduler=scheduler).save_pretrained(folder)
    (folder / "class_names.json").write_text(json.dumps(list(class_names)))
    return folder
