"""The auto-encoder alone: both kinds, from their own folder or a pipeline's."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DModel

from ddoq_plugin.errors import PriorError
from ddoq_plugin.priors import load_prior


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("autoencoders")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        tiny = AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8),
            decoder_block_out_channels=(8, 8, 8),
            num_encoder_blocks=(1, 1, 1),
            num_decoder_blocks=(1, 1, 1),
            latent_channels=5,
            scaling_factor=2.0,
        )
        large = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8),
            norm_num_groups=4,
            sample_size=8,
            scaling_factor=0.5,
            shift_factor=0.25,
        )
        tiny.save_pretrained(root / "tiny")
        large.save_pretrained(root / "kl")
        UNet2DModel(
            block_out_channels=(8, 8), norm_num_groups=4, down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
        ).save_pretrained(root / "unet")  # fmt: skip
    return root


@pytest.fixture
def images():
    return torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_latents_are_shifted_and_scaled(folders, images):
    prior = load_prior("autoencoder", path=folders / "kl", device="cpu")
    assert (prior.image_size, prior.latent_shape, prior.can_denoise) == (8, (4, 4, 4), False)
    with torch.no_grad():
        mode = prior.vae.encode(images * 2 - 1).latent_dist.mode()
        restored = (prior.vae.decode(mode).sample / 2 + 0.5).clamp(0, 1)
    latents = prior.encode(images)
    torch.testing.assert_close(latents, (mode - 0.25) * 0.5)
    torch.testing.assert_close(prior.decode(latents), restored)
    assert not torch.allclose(prior.encode(images, sample=True, seeds=[1, 2, 3]), latents)


def test_a_tiny_autoencoder_is_deterministic_and_needs_a_size(folders, images):
    with pytest.raises(PriorError, match="give image_size"):
        load_prior("autoencoder", path=folders / "tiny", device="cpu")
    with pytest.raises(PriorError, match="multiple of 4"):
        load_prior("autoencoder", path=folders / "tiny", device="cpu", image_size=10)
    prior = load_prior("autoencoder", path=folders / "tiny", device="cpu", image_size=8)
    assert prior.latent_shape == (5, 2, 2)
    latents = prior.encode(images)
    with torch.no_grad():
        torch.testing.assert_close(latents, 2 * prior.vae.encode(images * 2 - 1).latents)
    assert torch.equal(prior.encode(images, sample=True, seeds=[1, 2, 3]), latents)
    assert prior.decode(latents).shape == images.shape and prior.decode(latents).std() > 0
    with pytest.raises(PriorError, match="only an AutoencoderKL"):
        load_prior("autoencoder", path=folders / "tiny", device="cpu", image_size=8, tiling=True)


def test_strength_zero_decodes_and_more_is_refused(folders, images):
    prior = load_prior("autoencoder", path=folders / "kl", device="cpu")
    prior.bind_classes(["a", "b"])
    latents, ids = prior.encode(images), torch.tensor([0, 1, 1])
    settings = {"guidance_scale": 1.0, "steps": 5, "seeds": range(3)}
    assert torch.equal(prior.generate(latents, ids, strength=0, **settings), prior.decode(latents))
    with pytest.raises(PriorError, match="no denoiser"):
        prior.generate(latents, ids, strength=0.5, **settings)
    with pytest.raises(PriorError, match="no denoiser"):
        prior.invert(latents, ids, steps=3)


def test_it_is_read_from_a_pipeline_and_other_folders_are_told(folders, dit_folder, tmp_path):
    own = load_prior("autoencoder", path=dit_folder / "vae", device="cpu")
    assert load_prior("autoencoder", path=dit_folder, device="cpu").fingerprint == own.fingerprint
    assert own.fingerprint != load_prior("autoencoder", path=dit_folder, device="cpu", image_size=16).fingerprint
    with pytest.raises(PriorError, match="holds a UNet2DModel: this prior reads an AutoencoderKL or AutoencoderTiny"):
        load_prior("autoencoder", path=folders / "unet", device="cpu")
    with pytest.raises(PriorError, match="does not exist"):
        load_prior("autoencoder", path=tmp_path / "nowhere", device="cpu")
    with pytest.raises(PriorError, match="no readable config.json"):
        load_prior("autoencoder", path=tmp_path, device="cpu")
    (tmp_path / "config.json").write_text((folders / "kl" / "config.json").read_text())
    with pytest.raises(PriorError, match="no weights"):
        load_prior("autoencoder", path=tmp_path, device="cpu")


def test_a_hub_id_that_cannot_be_fetched_is_one_sentence(monkeypatch):
    def offline(*_, **__):
        raise OSError("We couldn't connect to the hub\nand many more lines")

    monkeypatch.setattr("ddoq_plugin.priors.pipelines.snapshot_download", offline)
    with pytest.raises(PriorError, match="nobody/nothing is neither a folder nor a model") as told:
        load_prior("autoencoder", path="nobody/nothing")
    assert "\n" not in str(told.value)
