"""Tiny random pipelines in the layout of the hub, and a data set of coloured squares."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

CLASSES = ("red square", "green_square", "tench, Tinca tinca")


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_vae(latent_channels: int = 4):
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=latent_channels,
        norm_num_groups=4,
        sample_size=8,
        scaling_factor=0.5,
        mid_block_add_attention=False,
    )


def save_dit(folder: Path, *, learned_sigma: bool = True, classes: int = 3, **scheduler) -> Path:
    from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        transformer = DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8 if learned_sigma else 4,
            num_layers=2,
            sample_size=4,
            patch_size=2,
            num_embeds_ada_norm=classes,
        )
        settings = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1} | scheduler
        pipeline = DiTPipeline(transformer=transformer, vae=tiny_vae(), scheduler=DDIMScheduler(**settings))
    pipeline.save_pretrained(folder)
    return folder


def save_stable_diffusion(folder: Path, prediction: str = "epsilon") -> Path:
    from diffusers import PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        unet = UNet2DConditionModel(
            sample_size=4,
            in_channels=4,
            out_channels=4,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=8,
            norm_num_groups=4,
        )
        text = CLIPTextConfig(
            vocab_size=200,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=16,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
        scheduler = PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type=prediction,
        )
        StableDiffusionPipeline(
            vae=tiny_vae(),
            text_encoder=CLIPTextModel(text),
            tokenizer=_tokenizer(folder.parent / f"{folder.name}_tokenizer"),
            unet=unet,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(folder)
    return folder


def _tokenizer(folder: Path):
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz,_"
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 16}))
    return CLIPTokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def dit_folder(tmp_path_factory) -> Path:
    folder = save_dit(tmp_path_factory.mktemp("priors") / "dit")
    sidecar = {"class_names": CLASSES, "wordnet_ids": ["n00000001", "n00000002", "n01440764"]}
    (folder / "class_names.json").write_text(json.dumps(sidecar))
    return folder


@pytest.fixture(scope="session")
def sd_folder(tmp_path_factory) -> Path:
    return save_stable_diffusion(tmp_path_factory.mktemp("priors") / "sd")


@pytest.fixture
def make_dit(tmp_path):
    """save_dit into a new folder."""
    made = []

    def make(**settings) -> Path:
        made.append(save_dit(tmp_path / f"dit{len(made)}", **settings))
        return made[-1]

    return make


@pytest.fixture
def make_stable_diffusion(tmp_path):
    """save_stable_diffusion into a new folder."""
    return lambda **settings: save_stable_diffusion(tmp_path / "sd", **settings)


@pytest.fixture(params=["dit", "stable_diffusion"])
def prior(request, dit_folder, sd_folder):
    """Each latent diffusion prior, with its classes bound."""
    from ddoq_plugin.priors import load_prior

    folder = {"dit": dit_folder, "stable_diffusion": sd_folder}[request.param]
    loaded = load_prior(request.param, path=folder, device="cpu")
    loaded.bind_classes(CLASSES)
    return loaded


@pytest.fixture
def latents() -> torch.Tensor:
    return torch.randn(5, 4, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def class_ids() -> torch.Tensor:
    return torch.tensor([0, 1, 2, 0, 1])


class _Squares:
    def __init__(self, labels: torch.Tensor, seed: int) -> None:
        chance = torch.Generator().manual_seed(seed)
        images = torch.randint(0, 40, (len(labels), 3, 8, 8), generator=chance, dtype=torch.uint8)
        images[torch.arange(len(labels)), labels, 2:6, 2:6] = 220
        self.labels, self.pixels = labels, images

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices=None) -> torch.Tensor:
        return self.pixels if indices is None else self.pixels[torch.as_tensor(indices)]


@dataclass(frozen=True)
class Squares:
    """What train_prior reads of an ImageData."""

    name: str = "squares"
    class_names: tuple[str, ...] = CLASSES
    image_size: int = 8
    num_classes: int = 3
    wnids: tuple[str, ...] | None = None
    fingerprint: str = hashlib.sha256(b"squares").hexdigest()
    train: _Squares = _Squares(torch.arange(48) % 3, 0)
    val: _Squares = _Squares(torch.arange(9) % 3, 1)

    @property
    def test(self):
        raise AssertionError("training must not look at the test split")


@pytest.fixture(scope="session")
def squares() -> Squares:
    return Squares()


@pytest.fixture(scope="session")
def tiny_recipe():
    from ddoq_plugin.priors import PriorRecipe

    return PriorRecipe.model_validate(
        {
            "source": "made up for the tests",
            "autoencoder": {
                "channels": [4, 8],
                "latent_channels": 2,
                "norm_groups": 4,
                "steps": 30,
                "batch_size": 8,
                "learning_rate": 0.01,
                "kl_weight": 1e-4,
            },
            "denoiser": {"width": 16, "layers": 1, "heads": 2, "steps": 30, "batch_size": 16, "learning_rate": 0.005},
        }
    )
