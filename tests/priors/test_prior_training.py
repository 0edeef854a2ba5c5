"""Training of the embedded prior: what it writes, and that it resumes with the same bits."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from ddoq_plugin.errors import PriorError
from ddoq_plugin.priors import PriorRecipe, load_prior, load_recipe, recipe_names, train_prior
from ddoq_plugin.priors import loop as training_loop
from ddoq_plugin.priors.loop import batch_indices, warmup_cosine
from ddoq_plugin.priors.networks import build_autoencoder, build_denoiser, fold_standardisation

WEIGHTS = ("vae", "transformer")


def weights(folder) -> dict[str, bytes]:
    return {part: (folder / part / "diffusion_pytorch_model.safetensors").read_bytes() for part in WEIGHTS}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny_recipe, squares):
    """The folder of one training that nothing disturbed, with the state of torch's global generator around it."""
    folder = tmp_path_factory.mktemp("trained") / "prior"
    before = torch.random.get_rng_state()
    train_prior(squares, folder, tiny_recipe, 0, progress=False, device="cpu")
    assert torch.equal(before, torch.random.get_rng_state())  # the global generator is left alone
    return folder


def test_folder_is_a_pipeline_with_names_and_report(undisturbed, squares, tiny_recipe):
    assert not (undisturbed / "checkpoint").exists()
    prior = load_prior("dit", path=undisturbed, device="cpu")
    assert prior.latent_shape == (2, 4, 4) and prior.image_size == 8
    prior.bind_classes(squares.class_names)
    assert prior.prior_ids.tolist() == [0, 1, 2] and prior.null_class == 3 and prior.has_null_class
    report = json.loads((undisturbed / "prior_report.json").read_text())
    assert report["recipe"] == tiny_recipe.model_dump(mode="json") and report["seed"] == 0
    images = squares.val.images()
    restored = prior.decode(prior.encode(images))
    errors = (restored - images / 255).square().mean(dim=(1, 2, 3))
    assert report["psnr_val_db"] == pytest.approx(float((-10 * errors.log10()).mean()), abs=0.02)


def test_latents_come_out_standardised(undisturbed, squares):
    prior = load_prior("dit", path=undisturbed, device="cpu")
    assert prior.vae.config.scaling_factor == 1
    drawn = prior.encode(squares.train.images(), sample=True, seeds=range(48))
    torch.testing.assert_close(drawn.mean(dim=(0, 2, 3)), torch.zeros(2), atol=0.02, rtol=0)
    torch.testing.assert_close(drawn.std(dim=(0, 2, 3)), torch.ones(2), atol=0.03, rtol=0)


def test_same_seed_same_bits_and_another_seed_others(tmp_path, undisturbed, squares, tiny_recipe):
    train_prior(squares, tmp_path / "again", tiny_recipe, 0, progress=False, device="cpu")
    train_prior(squares, tmp_path / "other", tiny_recipe, 1, progress=False, device="cpu")
    assert weights(tmp_path / "again") == weights(undisturbed)
    again, first = (load_prior("dit", path=folder, device="cpu") for folder in (tmp_path / "again", undisturbed))
    assert again.fingerprint == first.fingerprint  # seconds and paths are no part of it
    assert all(weights(tmp_path / "other")[part] != weights(undisturbed)[part] for part in WEIGHTS)


@pytest.mark.parametrize("stops", [(7,), (31,), (3, 40)])
def test_interrupted_training_goes_on_with_the_same_bits(
    tmp_path, monkeypatch, undisturbed, squares, tiny_recipe, stops
):
    """``stops`` count checkpoints (one a step; 30 steps each for auto-encoder and denoiser) over all runs."""
    saved = {"count": 0}
    save = training_loop.save_checkpoint

    def save_and_stop(*arguments):
        save(*arguments)
        saved["count"] += 1
        if saved["count"] in stops:
            raise KeyboardInterrupt

    monkeypatch.setattr(training_loop, "save_checkpoint", save_and_stop)
    for _ in stops:
        with pytest.raises(KeyboardInterrupt):
            train_prior(squares, tmp_path, tiny_recipe, 0, progress=False, device="cpu", checkpoint_seconds=0)
    train_prior(squares, tmp_path, tiny_recipe, 0, progress=False, device="cpu", checkpoint_seconds=0)
    assert saved["count"] == 60  # no step was done twice
    assert weights(tmp_path) == weights(undisturbed)


@pytest.mark.parametrize("how", ["cut in half", "emptied", "one byte changed"])
def test_a_damaged_checkpoint_is_dropped_and_the_training_ends_the_same(
    tmp_path, monkeypatch, undisturbed, squares, tiny_recipe, how
):
    def save_and_stop(path, state):
        save(path, state)
        if state["step"] == 12:
            raise KeyboardInterrupt

    save = training_loop.save_checkpoint
    monkeypatch.setattr(training_loop, "save_checkpoint", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train_prior(squares, tmp_path, tiny_recipe, 0, progress=False, device="cpu", checkpoint_seconds=0)
    monkeypatch.undo()
    file = tmp_path / "checkpoint" / "autoencoder.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    left = {"cut in half": content[: len(content) // 2], "emptied": b"", "one byte changed": content}[how]
    file.write_bytes(left)
    with pytest.warns(UserWarning, match="autoencoder.pt is damaged"):
        train_prior(squares, tmp_path, tiny_recipe, 0, progress=False, device="cpu")
    assert weights(tmp_path) == weights(undisturbed)


TRAIN_DIGITS = """
import json, sys, torch
from ddoq_plugin.data import load_data
from ddoq_plugin.priors import PriorRecipe, train_prior
torch.set_num_threads(1)
recipe = PriorRecipe.model_validate_json(sys.argv[2])
train_prior(load_data("digits"), sys.argv[1], recipe, 5, progress=False, device="cpu", checkpoint_seconds=0)
"""


def test_training_killed_hard_goes_on_with_the_same_bits(tmp_path, tiny_recipe):
    from ddoq_plugin.data import load_data

    killed = subprocess.Popen([sys.executable, "-c", TRAIN_DIGITS, str(tmp_path / "a"), tiny_recipe.model_dump_json()])
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "a" / "checkpoint" / "denoiser.pt").exists():
            assert killed.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
    assert not (tmp_path / "a" / "prior_report.json").exists(), "the training ended before it could be killed"
    digits = load_data("digits")
    train_prior(digits, tmp_path / "a", tiny_recipe, 5, progress=False, device="cpu")
    train_prior(digits, tmp_path / "b", tiny_recipe, 5, progress=False, device="cpu")
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


def test_finished_folder_is_left_alone_and_a_foreign_one_refused(
    tmp_path, undisturbed, squares, tiny_recipe, dit_folder
):
    before = {file: file.stat().st_mtime_ns for file in undisturbed.rglob("*")}
    train_prior(squares, undisturbed, tiny_recipe, 0, progress=False, device="cpu")
    assert before == {file: file.stat().st_mtime_ns for file in undisturbed.rglob("*")}
    with pytest.raises(PriorError, match="made with another seed"):
        train_prior(squares, undisturbed, tiny_recipe, 1, progress=False)
    with pytest.raises(PriorError, match="holds a pipeline already"):
        train_prior(squares, dit_folder, tiny_recipe, 0, progress=False)


def test_checkpoint_of_another_call_is_not_used(tmp_path, monkeypatch, undisturbed, squares, tiny_recipe):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("ddoq_plugin.priors.training._encode_moments", stop)
        with pytest.raises(KeyboardInterrupt):
            train_prior(squares, tmp_path, tiny_recipe, 9, progress=False, device="cpu")
    assert (tmp_path / "checkpoint" / "autoencoder.pt").exists()
    with pytest.warns(UserWarning, match="starts anew"):
        train_prior(squares, tmp_path, tiny_recipe, 0, progress=False, device="cpu")
    assert weights(tmp_path) == weights(undisturbed)


def test_wordnet_ids_reach_the_sidecar(tmp_path, squares, tiny_recipe):
    data = dataclasses.replace(squares, wnids=("n00000001", "n00000002", "n00000003"))
    short = tiny_recipe.model_copy(
        update={
            "autoencoder": tiny_recipe.autoencoder.model_copy(update={"steps": 1}),
            "denoiser": tiny_recipe.denoiser.model_copy(update={"steps": 1, "prediction": "v_prediction"}),
        }
    )
    train_prior(data, tmp_path, short, 0, progress=False, device="cpu")
    prior = load_prior("dit", path=tmp_path, device="cpu")
    prior.bind_classes(["n00000003", "red square"])
    assert prior.prior_ids.tolist() == [2, 0]
    assert prior.scheduler.config.prediction_type == "v_prediction"


def test_standardisation_changes_the_latents_and_not_the_images(tiny_recipe):
    vae = build_autoencoder(tiny_recipe.autoencoder, 8, seed=1)
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.3, -1.2]), torch.tensor([0.5, 4.0])
    with torch.no_grad():
        before = vae.encode(images).latent_dist
        restored = vae.decode(before.mean).sample
        fold_standardisation(vae, mean, std)
        after = vae.encode(images).latent_dist
        torch.testing.assert_close(after.mean, (before.mean - mean[:, None, None]) / std[:, None, None])
        torch.testing.assert_close(after.std, before.std / std[:, None, None])
        torch.testing.assert_close(vae.decode(after.mean).sample, restored, atol=1e-5, rtol=1e-4)


def test_training_that_diverges_is_told(tmp_path, squares, tiny_recipe):
    wild = tiny_recipe.model_copy(
        update={"autoencoder": tiny_recipe.autoencoder.model_copy(update={"learning_rate": 1e12})}
    )
    with pytest.raises(PriorError, match="auto-encoder: the loss is .*lower learning_rate"):
        train_prior(squares, tmp_path, wild, 0, progress=False, device="cpu")


def test_untrained_denoiser_predicts_zero_and_drops_no_label_itself(tiny_recipe):
    model = build_denoiser(tiny_recipe.denoiser, 2, 4, 3, seed=1).train()
    noisy = torch.randn(4, 2, 4, 4)
    assert not model(noisy, timestep=torch.arange(4), class_labels=torch.tensor([0, 1, 2, 3])).sample.any()
    assert all(block.norm1.emb.class_embedder.dropout_prob == 0 for block in model.transformer_blocks)


def test_batches_visit_every_image_once_a_pass():
    steps = [batch_indices(10, 5, step, seed=0) for step in range(4)]
    assert sorted(torch.cat(steps[:2]).tolist()) == sorted(torch.cat(steps[2:]).tolist()) == list(range(10))
    assert not torch.equal(steps[0], steps[2])
    assert len(batch_indices(3, 5, 7, seed=0)) == 3


def test_rate_rises_and_falls():
    rate = warmup_cosine(2.0, steps=100, warmup=0.1)
    rates = [rate(step) for step in range(100)]
    assert max(rates) == pytest.approx(2.0, rel=0.01) and rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True) and 0 < rates[-1] < 0.01


def test_recipes_of_the_package_are_valid_and_say_their_source():
    assert {"digits", "small32"} <= set(recipe_names())
    for name in recipe_names():
        assert load_recipe(name).source
    assert load_recipe("digits").latent_size(16) == 4


def test_recipe_errors_name_the_place(tmp_path, squares):
    with pytest.raises(PriorError, match="unknown prior recipe 'digit'; did you mean 'digits'"):
        load_recipe("digit")
    with pytest.raises(PriorError, match="cannot be read"):
        load_recipe(tmp_path / "missing.yaml")
    content = load_recipe("digits").model_dump(mode="json")
    for change, told in [
        ({"denoiser": content["denoiser"] | {"with": 3}}, "denoiser.with.*did you mean 'width'"),
        ({"denoiser": content["denoiser"] | {"heads": 5}}, "not a multiple of heads 5"),
        ({"autoencoder": content["autoencoder"] | {"channels": [6]}}, r"channels \[6\] are not multiples"),
        ({"autoencoder": content["autoencoder"] | {"steps": 0}}, "autoencoder.steps"),
    ]:
        (tmp_path / "recipe.yaml").write_text(json.dumps(content | change))  # JSON is YAML
        with pytest.raises(PriorError, match=told):
            load_recipe(tmp_path / "recipe.yaml")
    with pytest.raises(PriorError, match="for images of 16 pixels and the data has 8"):
        train_prior(squares, tmp_path / "x", load_recipe("digits"), 0)
    odd = PriorRecipe.model_validate(content | {"image_size": None})
    with pytest.raises(PriorError, match="multiple of 4"):
        train_prior(dataclasses.replace(squares, image_size=10), tmp_path / "x", odd, 0)
    assert not (tmp_path / "x").exists()
