"""What a driver works out without Ray: the items of the stages, and the resolved config."""

from __future__ import annotations

import pickle

import pytest

from ddoq_plugin.config import load_config
from ddoq_plugin.data import load_data
from ddoq_plugin.distiller.dry_run import DeferredPrior, DryRunContext, PriorFacts
from ddoq_plugin.planning.workload import declare
from ddoq_plugin.sweeps.grid import make_grid
from ddoq_plugin.sweeps.resolve import resolved
from ddoq_plugin.sweeps.stages import together

PRIOR = {"name": "dit", "train": "digits"}


FACTS = PriorFacts("dit", "f00", (4, 4, 4), 16, True)


def declared(path, methods, **changes):
    config = load_config(path, {"prior": PRIOR, "methods": methods, **changes})
    facts = FACTS if config.prior else None
    context = DryRunContext(load_data("digits", limit_per_class=12), config.prior, facts=facts)
    return declare(make_grid(config), context)


def of_kind(work, kind):
    return [one for one in work.works() if one.kind == kind]


def test_every_class_is_encoded_once_for_each_kind_of_latents(small_sweep):
    work = declared(small_sweep, [{"name": "ddoq", "weighting": ["uniform", "sqrt"]}, "d4m", "random"])
    latents = of_kind(work, "latents")
    assert len(latents) == 20 and {(one.key["space"], one.key["encoding"]) for one in latents} == {
        ("latent", "mode"), ("latent", "sample"),
    }  # fmt: skip
    assert {one.stage for one in latents} == {"encode"} and not any(one.needs for one in latents)


def test_pixels_are_not_encoded_but_what_stands_for_their_centroids_is(small_sweep):
    work = declared(small_sweep, [{"name": "ddoq", "space": "pixel"}])
    assert {one.key["space"] for one in of_kind(work, "latents")} == {"latent"}
    assert of_kind(declared(small_sweep, [{"name": "k_medoids", "space": "pixel"}]), "latents") == []
    assert of_kind(declared(small_sweep, ["k_medoids"], prior=None), "latents") == []


def test_a_class_is_quantised_once_for_all_numbers_of_clusters_and_seeds(small_sweep):
    work = declared(small_sweep, [{"name": "ddoq", "weighting": ["uniform", "sqrt"]}], seeds=[0, 4])
    tasks = together(of_kind(work, "codebooks"))
    assert [members[0].argument[0] for members in tasks] == list(range(10))
    wanted = {(1, 0), (1, 4), (3, 0), (3, 4), (5, 0), (5, 4)}
    assert all({one.argument[1:3] for one in members} == wanted for members in tasks)


def test_weightings_share_the_generation_of_their_images(small_sweep):
    methods = [{"name": "ddoq", "weighting": ["uniform", "sqrt"], "strength": [0.5, 0.7]}]
    work = declared(small_sweep, methods, ipc=100, clusters=["ipc"], seeds=1)
    images = of_kind(work, "images")
    groups = [3, 3, 3, 1]  # classes: of at least 256 images, the last excepted
    assert [one.effort.images for one in images] == [100 * count for count in groups] * 2
    roots = list(work.roots.values())
    assert len(roots) == 4 and len({one.address for one in roots}) == 4
    shared = [{need.address for need in root.needs if need.kind == "images"} for root in roots]
    assert len({frozenset(one) for one in shared}) == 2, "images of another strength are others"


def test_a_later_piece_needs_the_earlier(small_sweep):
    (root,) = declared(small_sweep, ["ddoq"], ipc=3, clusters=["ipc"], seeds=1).roots.values()
    kinds = [[need.kind for need in root.needs], {n.kind for n in root.needs[0].needs}]
    assert kinds == [["images"] + ["latents"] * 10, {"codebooks"}]
    assert {need.kind for book in root.needs[0].needs for need in book.needs} == {"latents"}


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
