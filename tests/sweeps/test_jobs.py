"""What a driver works out without Ray: the items of the stages, and the resolved config."""

from __future__ import annotations

import pickle

import pytest

from ddoq_plugin.config import load_config
from ddoq_plugin.data import load_data
from ddoq_plugin.distiller.dry_run import DryRunContext
from ddoq_plugin.sweeps.grid import make_grid
from ddoq_plugin.sweeps.jobs import codebook_jobs, encode_jobs, generate_jobs
from ddoq_plugin.sweeps.resolve import resolved
from ddoq_plugin.sweeps.shared import DeferredPrior, PriorFacts

PRIOR = {"name": "dit", "train": "digits"}


def plan(path, methods, **changes):
    config = load_config(path, {"prior": PRIOR, "methods": methods, **changes})
    data = load_data("digits", limit_per_class=12)
    return make_grid(config).sets, DryRunContext(data, config.prior)


def test_every_class_is_encoded_once_for_each_kind_of_latents(small_sweep):
    sets, context = plan(small_sweep, [{"name": "ddoq", "weighting": ["uniform", "sqrt"]}, "d4m", "random"])
    jobs = encode_jobs(sets, context)
    kinds = {(job.argument[1].space, job.argument[1].encoding) for job in jobs}
    assert len(jobs) == 20 and kinds == {("latent", "mode"), ("latent", "sample")}
    assert len({job.argument for job in jobs}) == 20
    needed = {title for job in jobs for title in job.sets}
    assert needed == {spec.title for spec in sets if spec.method != "random"}


def test_pixels_are_not_encoded_but_what_stands_for_their_centroids_is(small_sweep):
    sets, context = plan(small_sweep, [{"name": "ddoq", "space": "pixel"}])
    assert {job.argument[1].space for job in encode_jobs(sets, context)} == {"latent"}
    sets, context = plan(small_sweep, [{"name": "k_medoids", "space": "pixel"}])
    assert encode_jobs(sets, context) == []
    sets, context = plan(small_sweep, ["k_medoids"], prior=None)
    assert encode_jobs(sets, context) == []


def test_a_class_is_quantised_once_for_all_numbers_of_clusters_and_seeds(small_sweep):
    sets, context = plan(small_sweep, [{"name": "ddoq", "weighting": ["uniform", "sqrt"]}], seeds=[0, 4])
    jobs = codebook_jobs(sets, context)
    assert [job.argument[0] for job in jobs] == list(range(10))
    assert all(job.argument[2:] == ([1, 3, 5], [0, 4]) for job in jobs)


def test_weightings_share_the_generation_of_their_images(small_sweep):
    methods = [{"name": "ddoq", "weighting": ["uniform", "sqrt"], "strength": [0.5, 0.7]}]
    sets, context = plan(small_sweep, methods, ipc=100, clusters=["ipc"], seeds=1)
    jobs = generate_jobs(sets, context)
    groups = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (9,)]  # of at least 256 images, the last excepted
    assert [job.argument[1] for job in jobs] == groups * 2 and all(len(job.sets) == 2 for job in jobs)
    assert len({job.sets for job in jobs}) == 2, "images of another strength are others"


@pytest.mark.parametrize(
    ("resources", "dtype"),
    [
        ({}, None),
        ({"gpus": 1}, "float16"),
        ({"stages": {"generate": {"gpus": 0.5}}}, "float16"),
        ({"stages": {"train": {"gpus": 1}}}, None),
        ({"gpus": 1, "device": "cpu"}, None),
    ],
)
def test_a_prior_that_gpus_run_has_one_precision_in_all_stages(small_sweep, resources, dtype):
    config = resolved(load_config(small_sweep, {"prior": PRIOR, "resources": resources}))
    found = config.prior.options().get("dtype")
    assert (found is None) == (dtype is None), found
    assert found in (None, "float16", "bfloat16")
    given = load_config(small_sweep, {"prior": PRIOR | {"dtype": "float32"}, "resources": resources})
    assert resolved(given).prior.options()["dtype"] == "float32"


def test_a_prior_of_which_only_facts_are_asked_is_not_loaded():
    loaded = []

    class Loaded:
        device = "the device"

    def load():
        loaded.append(True)
        return Loaded()

    prior = DeferredPrior(PriorFacts("dit", "f00", (4, 8, 8), 64, True), load)
    prior.bind_classes(["cat", "dog"])
    assert (prior.fingerprint, prior.latent_shape, prior.image_size, prior.can_denoise) == ("f00", (4, 8, 8), 64, True)
    assert pickle.loads(pickle.dumps(PriorFacts("dit", "f00", (4, 8, 8), 64, True))).name == "dit" and not loaded
    assert prior.device == "the device" and loaded
