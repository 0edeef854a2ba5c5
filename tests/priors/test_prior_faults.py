"""Priors of strangers: no code, no holes; samplers at the ends of their schedules."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from ddoq_plugin.errors import PriorError
from ddoq_plugin.priors import load_prior
from ddoq_plugin.priors.sampling import SCHEDULERS


@pytest.fixture
def copy(dit_folder, tmp_path):
    return shutil.copytree(dit_folder, tmp_path / "copy")


def loaded(folder, **options):
    prior = load_prior("dit", path=folder, device="cpu", class_names=["a", "b", "c"], **options)
    prior.bind_classes(["a", "b", "c"])
    return prior


@pytest.mark.parametrize("entry", [["evil", "Evil"], ["os", "X"], ["diffusers"], ["torch.nn", "Linear"], ["", "X"]])
def test_a_part_that_is_not_of_a_library_is_refused(copy, entry):
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {"transformer": entry}))
    with pytest.raises(PriorError, match="'transformer' of the pipeline .* no class of diffusers or transformers"):
        loaded(copy)


def test_code_beside_a_network_is_refused_and_never_run(copy, tmp_path):
    (copy / "transformer" / "evil.py").write_text(f"open({str(tmp_path / 'PWNED')!r}, 'w')")
    with pytest.raises(PriorError, match="holds code .transformer/evil.py."):
        loaded(copy)
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize("part", ["transformer", "vae"])
@pytest.mark.parametrize("change", ["missing", "half", "unknown"])
def test_a_network_with_a_hole_is_refused_by_the_tensors_name(copy, part, change):
    (file,) = (copy / part).glob("*.safetensors")
    tensors = load_file(file)
    names = sorted(tensors)
    gone = {"missing": names[:1], "half": names[::2], "unknown": []}[change]
    kept = {name: tensor for name, tensor in tensors.items() if name not in gone}
    save_file(kept | ({"other": torch.zeros(1)} if change == "unknown" else {}), file, metadata={"format": "pt"})
    what = "has the unknown tensors other" if change == "unknown" else f"lacks tensors {names[0]}"
    with pytest.raises(PriorError, match=what) as caught:
        loaded(copy)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_whole_pipelines_of_both_kinds_load(dit_folder, sd_folder):
    loaded(dit_folder)
    load_prior("stable_diffusion", path=sd_folder, device="cpu")


@pytest.mark.parametrize("key", [True, None, 1])
def test_names_that_yaml_reads_as_other_things_are_told_to_be_quoted(dit_folder, key):
    with pytest.raises(PriorError, match=f"class_map has the key {key}.*in quotes"):
        loaded(dit_folder, class_map={key: 1})


def images(prior, scheduler, strength, steps):
    latents = torch.randn(2, *prior.latent_shape, generator=torch.Generator().manual_seed(1))
    settings = {"strength": strength, "steps": steps, "guidance_scale": 1.0, "scheduler": scheduler}
    return prior.generate(latents, torch.tensor([0, 1]), seeds=[1, 2], **settings)


@pytest.mark.parametrize("strength", [0.15, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("steps", [30, 31])
def test_pndm_is_near_ddim_wherever_it_starts(dit_folder, strength, steps):
    prior = loaded(dit_folder)
    ddim = images(prior, "DDIMScheduler", strength, steps)
    for name in ("PNDMScheduler", "DPMSolverMultistepScheduler"):
        assert (images(prior, name, strength, steps) - ddim).abs().mean() < 0.03


@pytest.mark.parametrize("steps", [999, 1000])
@pytest.mark.parametrize("scheduler", [None, *SCHEDULERS])
def test_the_end_of_the_schedule_works_or_is_one_sentence(dit_folder, steps, scheduler):
    prior = loaded(dit_folder)
    try:
        begun = prior._begin("latent", 1.0, steps, scheduler, 1.0)
    except PriorError as problem:
        assert "no finite values" in str(problem) and "\n" not in str(problem)
    else:
        assert float(max(begun.times)) <= 999 and (scheduler is not None or len(begun.times) == steps)


def test_a_whole_schedule_runs_and_inverts(dit_folder):
    prior = loaded(dit_folder)
    assert torch.isfinite(images(prior, None, 1.0, 1000)).all()
    latents = torch.randn(1, *prior.latent_shape, generator=torch.Generator().manual_seed(1))
    assert torch.isfinite(prior.invert(latents, torch.tensor([0]), steps=1000)).all()
