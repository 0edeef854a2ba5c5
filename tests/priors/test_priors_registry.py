"""The registered priors, their loading and what goes wrong in it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch

from ddoq_plugin.errors import PriorError, UnknownNameError
from ddoq_plugin.priors import ENTRIES, load_prior
from ddoq_plugin.registry import PRIORS

CLASSES = ("red square", "green_square", "tench, Tinca tinca")  # those of the fixtures' DiT


def options_of(name, dit_folder, sd_folder):
    return {
        "dit": {"path": dit_folder},
        "stable_diffusion": {"path": sd_folder},
        "autoencoder": {"path": dit_folder},  # the auto-encoder of a pipeline's folder
        "pixel": {"image_size": 8},
    }[name]


def test_importing_the_package_imports_no_heavy_library():
    code = "import sys, ddoq_plugin.priors; print([m for m in ('torch', 'diffusers', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", [entry.name for entry in ENTRIES])
def test_registered_prior_loads_encodes_generates_and_inverts(name, dit_folder, sd_folder, class_ids):
    prior = load_prior(name, device="cpu", **options_of(name, dit_folder, sd_folder))
    assert prior.name == name and prior.can_denoise == PRIORS.entry(name).flags["can_denoise"]
    prior.bind_classes(CLASSES)
    size = prior.image_size
    images = torch.rand(5, 3, size, size, generator=torch.Generator().manual_seed(0))
    latents = prior.encode(images)
    assert latents.shape == (5, *prior.latent_shape) and latents.dtype == torch.float32
    centroids = latents.mean(dim=0, keepdim=True).repeat(5, 1, 1, 1)
    strength = 0.6 if prior.can_denoise else 0.0
    made = prior.generate(centroids, class_ids, strength=strength, guidance_scale=2.0, steps=5, seeds=range(5))
    assert made.shape == (5, 3, size, size) and made.dtype == torch.float32
    assert 0 <= made.min() and made.max() <= 1
    if prior.can_denoise:
        assert len({tuple(image.flatten().tolist()) for image in made}) == 5  # one noise an image
        assert prior.invert(latents, class_ids, steps=5).shape == latents.shape
    else:
        with pytest.raises(PriorError, match="no denoiser"):
            prior.invert(latents, class_ids, steps=5)


def test_pixel_prior_keeps_images_and_refuses_to_denoise():
    prior = load_prior("pixel", image_size=6)
    images = torch.randint(0, 256, (4, 3, 6, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert torch.equal((prior.decode(prior.encode(images)) * 255).round().byte(), images)
    prior.bind_classes(["a"])
    latents, ids = prior.encode(images), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(PriorError, match="strength to 0"):
        prior.generate(latents, ids, strength=0.5, guidance_scale=1, steps=5, seeds=range(4))


def test_unknown_names_options_and_missing_paths_are_told(dit_folder):
    with pytest.raises(UnknownNameError, match="stable_diffusion"):
        load_prior("stable_difusion")
    with pytest.raises(PriorError, match="needs path="):
        load_prior("dit")
    with pytest.raises(PriorError, match="no option 'class_maps'; did you mean 'class_map'"):
        load_prior("dit", path=dit_folder, class_maps={})
    with pytest.raises(PriorError, match="needs the option 'image_size'"):
        load_prior("pixel")
    with pytest.raises(PriorError, match="reads no files"):
        load_prior("pixel", path="x", image_size=8)
    with pytest.raises(PriorError, match="unknown dtype 'float61'; did you mean 'float16'"):
        load_prior("dit", path=dit_folder, dtype="float61")
    with pytest.raises(PriorError, match="unknown device"):
        load_prior("dit", path=dit_folder, device="cupid")
    with pytest.raises(PriorError, match="batch_size"):
        load_prior("dit", path=dit_folder, batch_size=0)
    with pytest.raises(PriorError, match="eta"):
        load_prior("dit", path=dit_folder, eta=1.5)


def test_bad_folders_are_told_apart(tmp_path, dit_folder, sd_folder):
    def broken(name, change):
        folder = tmp_path / name
        shutil.copytree(dit_folder, folder)
        change(folder)
        return folder

    def message(folder, name="dit"):
        with pytest.raises(PriorError) as told:
            load_prior(name, path=folder, device="cpu")
        return str(told.value)

    assert "does not exist" in message(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "no model_index.json" in message(tmp_path / "empty")
    assert "holds a StableDiffusionPipeline" in message(sd_folder)
    assert "holds a DiTPipeline" in message(dit_folder, "stable_diffusion")
    assert "is a file" in message(dit_folder / "model_index.json")
    assert "damaged" in message(broken("index", lambda f: (f / "model_index.json").write_text("{")))
    assert "no configuration in vae/" in message(broken("part", lambda f: shutil.rmtree(f / "vae")))
    weights = "transformer/diffusion_pytorch_model.safetensors"
    assert "no weights in transformer/" in message(broken("weights", lambda f: (f / weights).unlink()))
    assert "cannot be loaded" in message(broken("torn", lambda f: (f / weights).write_bytes(b"\1" * 100)))
    names = broken("names", lambda f: (f / "class_names.json").write_text(json.dumps(["only one"])))
    assert "3 classes and 1 class names" in message(names)
    broken_names = broken("names2", lambda f: (f / "class_names.json").write_text(json.dumps({"class_names": [1]})))
    assert "not a JSON list of names" in message(broken_names)


def test_hub_id_that_cannot_be_fetched_is_one_sentence(monkeypatch):
    def offline(*_, **__):
        raise OSError("We couldn't connect to the hub\nand many more lines")

    monkeypatch.setattr("ddoq_plugin.priors.pipelines.hf_hub_download", offline)
    with pytest.raises(PriorError, match="nobody/nothing is neither a folder nor a model") as told:
        load_prior("dit", path="nobody/nothing")
    assert "\n" not in str(told.value)


def test_hub_id_is_checked_before_its_weights_are_fetched_and_loads_like_a_folder(monkeypatch, dit_folder, sd_folder):
    from diffusers import DiTPipeline

    hub = {"some/dit": dit_folder, "some/sd": sd_folder}
    fetched = []

    def download(name, **_):
        fetched.append(name)
        return str(hub[name])

    monkeypatch.setattr("ddoq_plugin.priors.pipelines.hf_hub_download", lambda name, file: str(hub[name] / file))
    monkeypatch.setattr(DiTPipeline, "download", download)
    assert load_prior("dit", path="some/dit").fingerprint == load_prior("dit", path=dit_folder).fingerprint
    with pytest.raises(PriorError, match="holds a StableDiffusionPipeline"):
        load_prior("dit", path="some/sd")
    assert fetched == ["some/dit"]


def test_weights_in_the_older_format_load_alike(tmp_path, dit_folder):
    from safetensors.torch import load_file

    folder = tmp_path / "old"
    shutil.copytree(dit_folder, folder)
    for part in ("transformer", "vae"):
        stored = folder / part / "diffusion_pytorch_model.safetensors"
        torch.save(load_file(stored), folder / part / "diffusion_pytorch_model.bin")
        stored.unlink()
    images = torch.rand(2, 3, 8, 8)
    new, old = load_prior("dit", path=dit_folder, device="cpu"), load_prior("dit", path=folder, device="cpu")
    assert torch.equal(new.encode(images), old.encode(images))


def test_fingerprint_follows_weights_configs_and_options_only(tmp_path, dit_folder):
    first = load_prior("dit", path=dit_folder, device="cpu").fingerprint
    copied = tmp_path / "copy"
    shutil.copytree(dit_folder, copied)
    (copied / "prior_report.json").write_text('{"seconds": 3}')
    assert load_prior("dit", path=copied, device="cpu").fingerprint == first
    assert load_prior("dit", path=copied, device="cpu", batch_size=3).fingerprint == first
    assert load_prior("dit", path=copied, device="cpu", eta=1.0).fingerprint != first
    config = copied / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace('"steps_offset": 1', '"steps_offset": 0'))
    assert load_prior("dit", path=copied, device="cpu").fingerprint != first
    weights = copied / "vae" / "diffusion_pytorch_model.safetensors"
    shutil.copytree(dit_folder, tmp_path / "other")
    torn = tmp_path / "other" / "vae" / "diffusion_pytorch_model.safetensors"
    torn.write_bytes(weights.read_bytes()[:-1] + bytes([weights.read_bytes()[-1] ^ 1]))
    assert load_prior("dit", path=tmp_path / "other", device="cpu").fingerprint != first


def test_half_precision_stays_near(dit_folder, latents, class_ids):
    made = {}
    for dtype in ("float32", "bfloat16"):
        prior = load_prior("dit", path=dit_folder, device="cpu", dtype=dtype)
        prior.bind_classes(CLASSES)
        made[dtype] = prior.generate(latents, class_ids, strength=0.5, guidance_scale=2, steps=4, seeds=range(5))
    assert prior.transformer.dtype == torch.bfloat16 and made["bfloat16"].dtype == torch.float32
    difference = (made["float32"] - made["bfloat16"]).abs().mean()
    assert 0 < difference < 0.02


def test_dit_without_null_class_takes_no_guidance(make_dit, latents, class_ids):
    prior = load_prior("dit", path=make_dit(), device="cpu")
    assert prior.null_class == 3 and prior.has_null_class
    prior.has_null_class = False
    prior.bind_classes(["0", "1", "2"])  # a pipeline without names calls its classes by their ids
    with pytest.raises(PriorError, match="without a null class"):
        prior.generate(latents, class_ids, strength=0.5, guidance_scale=2, steps=4, seeds=range(5))
    prior.generate(latents, class_ids, strength=0.5, guidance_scale=1, steps=4, seeds=range(5))
