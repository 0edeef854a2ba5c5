"""MGD3: the pull follows the paper's formula, weights share images, and sweep, plan and rows need no word of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from ddoq_baselines.mgd3 import MGD3, ModeGuidance

from ddoq_plugin.config import load_config
from ddoq_plugin.data import load_data
from ddoq_plugin.planning import make_plan
from ddoq_plugin.priors import load_recipe, train_prior
from ddoq_plugin.priors.guide import GuideStep
from ddoq_plugin.report import load_rows
from ddoq_plugin.testing import small_context

STEPS = 8


def step(index, x0, rows, steps=50):
    zeros = torch.zeros_like(x0)
    return GuideStep(index, steps, 500.0, 0.5, 0.3, zeros, x0, zeros, torch.zeros(len(rows), dtype=torch.int64), rows)


def test_the_pull_is_the_papers_and_ends_in_the_middle():
    modes = torch.randn(4, 2, 3, 3)
    guide, x0, rows = ModeGuidance(modes, 0.1, 0.5), torch.randn(2, 2, 3, 3), torch.tensor([3, 1])
    torch.testing.assert_close(guide(step(0, x0, rows)), 0.1 * 0.3 * (modes[[3, 1]] - x0))
    # the authors' code guides while i > 25, of i = 49 ... 0
    acting = [49 - index for index in range(50) if guide(step(index, x0, rows)) is not None]
    assert acting == list(range(49, 25, -1))


def test_images_are_pulled_to_their_modes():
    context = small_context(True)

    def distance(scale):
        made = MGD3(steps=STEPS, scale=scale, guidance_scale=1).distill(context, 2)
        latents = context.prior.encode(made.images.float() / 255)
        modes = torch.cat([context.codebook(c, 2).centroids for c in range(context.num_classes)])
        return float((latents.flatten(1) - modes).norm(dim=1).mean()), made

    free, free_set = distance(0.0)
    pulled, pulled_set = distance(20.0)
    assert pulled < free and not torch.equal(free_set.images, pulled_set.images)
    assert torch.equal(free_set.images, distance(0.0)[1].images)


def test_weightings_share_images_and_the_modes_masses_weigh_them():
    context = small_context(True)
    sets = [MGD3(steps=STEPS, weighting=weighting).distill(context, 3) for weighting in ("uniform", "counts")]
    assert sets[0].image_hash == sets[1].image_hash and torch.equal(sets[0].weights, torch.ones(30))
    masses = torch.cat([context.codebook(c, 3).masses for c in range(context.num_classes)])
    torch.testing.assert_close(sets[1].weights.double(), 3 * masses.double(), atol=1e-5, rtol=1e-5)


def test_the_guide_is_part_of_the_images_key():
    context = small_context(True)
    keys = {
        MGD3(steps=STEPS, **change).pushforward(context, 2, 2, 0).work(context.class_groups(2)[0]).address
        for change in ({}, {"scale": 0.2}, {"stop": 0.4}, {"guidance_scale": 3})
    }
    assert len(keys) == 4


@pytest.fixture(scope="module")
def prior_folder(tmp_path_factory):
    folder, recipe = tmp_path_factory.mktemp("prior") / "prior", load_recipe("digits")
    parts = {
        "autoencoder": recipe.autoencoder.model_copy(update={"steps": 1, "channels": (8, 8, 8)}),
        "denoiser": recipe.denoiser.model_copy(update={"steps": 1, "layers": 1}),
    }
    data = load_data("digits", limit_per_class=8)
    train_prior(data, folder, recipe.model_copy(update=parts), seed=0, progress=False)
    return folder


def test_killed_in_its_middle_a_sweep_goes_on_and_tells_what_it_took(small_sweep, prior_folder, tmp_path):
    """IPC 100 makes four groups of classes: the sweep is killed when the first is done."""
    changes = {
        "methods": [{"name": "mgd3", "steps": 20}],
        "prior": {"name": "dit", "path": str(prior_folder)},
        "dataset": {"name": "digits", "limit_per_class": 100},
        "ipc": 100, "clusters": ["ipc"], "seeds": 1, "full_data": False,
    }  # fmt: skip
    config = load_config(small_sweep, changes)
    whole = {stage.name: stage for stage in make_plan(config).stages}
    assert whole["images"].hours > 0 and whole["codebooks"].hours > 0

    settings = [part for name, value in changes.items() for part in ("--set", f"{name}={value!r}")]
    command = [sys.executable, "-m", "ddoq_plugin.cli", "sweep", str(small_sweep), "--local", *settings]
    store = config.store_folder

    def made():
        return {file: file.stat().st_mtime_ns for file in store.glob("images/*/manifest.json")}

    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as killed:
        deadline = time.monotonic() + 200
        while not made():
            assert killed.poll() is None, killed.stderr.read()[-2000:]
            assert time.monotonic() < deadline, "it took too long"
            time.sleep(0.02)
        os.kill(killed.pid, signal.SIGKILL)
    before = made()
    left = {stage.name: stage for stage in make_plan(config).stages}
    assert 1 <= len(before) < 4 and 0 < left["images"].hours < whole["images"].hours

    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr[-2000:]
    assert len(made()) == 4 and before.items() <= made().items(), "a finished group was made again"
    (row,) = load_rows(config.output_folder).to_dict("records")
    assert row["status"] == "done" and row["seconds_images"] > 0 and row["seconds_distill"] > row["seconds_images"]
    assert (row["set_scale"], row["set_stop"], row["method"]) == (0.1, 0.5, "mgd3")
