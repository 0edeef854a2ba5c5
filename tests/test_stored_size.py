"""``stored_size``: images are brought to it once, before they are rounded and kept, whatever the method."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ddoq_baselines.centroid import DecodedCentroid
from ddoq_baselines.d4m import D4M
from ddoq_baselines.k_medoids import KMedoids
from ddoq_baselines.random_selection import RandomSelection
from PIL import Image

from ddoq_plugin import DistillContext, DistilledSet, Distiller, load_data, load_prior
from ddoq_plugin.ddoq import DDOQ
from ddoq_plugin.distiller.generation import at_size
from ddoq_plugin.errors import ConfigError, DistillError
from ddoq_plugin.evaluation import load_protocol
from ddoq_plugin.evaluation.evaluator import Evaluator
from ddoq_plugin.store.artifacts import Store
from ddoq_plugin.testing import small_context

FAST = {"steps": 4, "guidance_scale": 2.0, "strength": 0.5}
IPC = 3


@pytest.fixture(scope="module")
def data():
    return load_data("digits", limit_per_class=30)


@pytest.fixture(scope="module")
def prior(data):
    made = load_prior("pixel", image_size=data.image_size)
    made.bind_classes(data.class_names)
    return made


class Whole(Distiller):
    """A method of somebody else that knows nothing of the setting."""

    def distill(self, context, ipc, *, clusters=None, seed=0):
        self.check(context, ipc, None)
        images = torch.cat([context.images(c, list(range(ipc))) for c in range(context.num_classes)])
        labels = torch.arange(context.num_classes).repeat_interleave(ipc)
        return context.finish(self, images, labels, ipc=ipc, clusters=None, seed=seed)


def methods(**more):
    decoded = {"strength": 0.0, **more}
    picks = (RandomSelection(**more), KMedoids(**more), Whole(**more))
    return [DDOQ(**decoded), D4M(**decoded), DecodedCentroid(**more), *picks]


def pillow(channel, size):
    """One channel, floats, as Pillow's default brings it to ``size``."""
    return np.array(Image.fromarray(channel.numpy(), mode="F").resize((size, size)))


# -- the resizing


@pytest.mark.parametrize(("side", "size"), [(64, 28), (16, 8), (20, 7)])
def test_it_is_pillows_default_rounded_once(side, size):
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    expected = np.stack([[pillow(channel * 255, size) for channel in image] for image in images])
    found = at_size(images, size)
    assert found.dtype == torch.uint8 and found.shape == (2, 3, size, size)
    assert np.abs(found.numpy() - expected.clip(0, 255)).max() <= 0.5 + 1e-3


def test_stripes_turn_grey_not_into_other_stripes():
    stripes = torch.zeros(1, 3, 64, 64)
    stripes[..., ::2] = 1.0
    inner = at_size(stripes, 16)[..., 2:-2]
    assert inner.float().sub(127.5).abs().max() <= 1  # without antialiasing: 0 or 255


def test_faint_images_are_rounded_after_they_were_resized():
    faint = torch.zeros(1, 3, 16, 16)
    faint[..., ::2] = 0.8 / 255  # rounded first, every second pixel would be 1, and their mean 0.5 fall to 0
    faint[..., 1::2] = 0.4 / 255
    assert at_size(faint, 8).unique().tolist() == [1]


def test_overshoot_is_cut_and_the_same_size_untouched():
    edge = torch.zeros(1, 3, 32, 32)
    edge[..., 16:] = 1.0
    made = at_size(edge, 20)
    assert made.min() == 0 and made.max() == 255
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(at_size(images, 16), images)


# -- methods


def test_every_method_keeps_what_it_would_have_kept_at_that_size(data, prior):
    context = DistillContext(data, prior)
    for whole, small in zip(methods(), methods(stored_size=8), strict=True):
        full, made = (method.distill(context, IPC, seed=1) for method in (whole, small))
        assert made.images.shape == (30, 3, 8, 8), small.label()
        assert (full.weights == made.weights).all() and full.provenance["stats"] == made.provenance["stats"]
        # of generated images the floats are resized, of which `full` is rounded: a level of difference, at most
        assert (at_size(full.images, 8).int() - made.images.int()).abs().max() <= 1, small.label()
    assert torch.equal(RandomSelection(stored_size=8).distill(context, IPC).images,
                       at_size(RandomSelection().distill(context, IPC).images, 8))  # fmt: skip


def test_the_size_of_the_data_is_no_other_setting(data, prior):
    context = DistillContext(data, prior)
    for whole, same in zip(methods(), methods(stored_size=16), strict=True):
        assert whole.distill(context, IPC).hash == same.distill(context, IPC).hash


def test_it_reaches_the_generated_images_and_nothing_before_them(data, prior, tmp_path):
    store = Store(tmp_path)

    def artifacts(kind):
        return set(tmp_path.glob(f"{kind}/*/manifest.json"))

    DDOQ(strength=0.0).distill(DistillContext(data, prior, store), IPC)
    before = {kind: artifacts(kind) for kind in ("latents", "codebooks", "images")}
    DDOQ(strength=0.0, stored_size=8).distill(DistillContext(data, prior, store), IPC)
    assert artifacts("latents") == before["latents"] and artifacts("codebooks") == before["codebooks"]
    (small,) = artifacts("images") - before["images"]
    (large,) = before["images"]
    pixels = [(path.parent / "tensor.safetensors").stat().st_size - 2**9 for path in (small, large)]
    assert pixels[0] <= 30 * 3 * 8**2 and pixels[1] >= 30 * 3 * 16**2 - 2**9


def test_weightings_share_small_images_and_a_store_changes_no_bit(data, tmp_path):
    context = small_context(with_prior=True)
    stored = DistillContext(context.data, context.prior, Store(tmp_path))
    for weighting in ("uniform", "counts"):
        method = DDOQ(weighting=weighting, stored_size=10, **FAST)
        for work in method.work(stored, 2, None, 0):
            for part in work.needs:
                stored.do(part)
        assert method.distill(stored, 2).hash == method.distill(context, 2).hash
    assert len(list(tmp_path.glob("images/*/manifest.json"))) == 1


def test_a_set_larger_than_memory_is_resized_in_parts(data, tmp_path, monkeypatch):
    from ddoq_plugin.distiller import context as module
    from ddoq_plugin.store import tensor_files

    expected = RandomSelection(stored_size=8).distill(DistillContext(data), IPC).hash
    monkeypatch.setattr(tensor_files, "IN_MEMORY", 0)
    monkeypatch.setattr(module, "GENERATION_GROUP", 7)
    made = RandomSelection(stored_size=8).distill(DistillContext(data, store=Store(tmp_path)), IPC)
    assert made.hash == expected and (tmp_path / "scratch").is_dir()


@pytest.mark.parametrize("method", methods(stored_size=17), ids=lambda method: type(method).__name__)
def test_larger_than_what_is_made_is_an_error(data, prior, method):
    with pytest.raises(DistillError, match="stored_size 17 is larger than the images, which are made at 16 px; lower"):
        method.distill(DistillContext(data, prior), IPC)


def test_it_is_a_size():
    with pytest.raises(ConfigError, match="stored_size"):
        DDOQ(stored_size=0)


# -- what follows


def test_a_student_is_trained_on_the_stored_pixels(data, prior, tmp_path):
    made = DDOQ(strength=0.0, stored_size=8).distill(DistillContext(data, prior), IPC)
    made = DistilledSet.load(made.save(tmp_path / "set"), data.class_names)
    assert made.provenance["settings"]["stored_size"] == 8
    protocol = load_protocol("hard_short").model_copy(update={"steps": 2})
    evaluator = Evaluator(data, protocol, Store(tmp_path / "store"), students=["mlp"])
    assert torch.equal(evaluator._training_set(made).images, made.images)
    assert 0 <= evaluator.evaluate(made, "mlp", 0)["top1"] <= 100


def test_a_larger_set_of_another_method_comes_to_the_size_of_the_data(data, tmp_path):
    labels = torch.arange(10)
    made = DistilledSet(torch.zeros(10, 3, 40, 30, dtype=torch.uint8), labels, data.class_names)
    evaluator = Evaluator(data, load_protocol("hard_short"), Store(tmp_path), students=["mlp"])
    assert evaluator._training_set(made).images.shape == (10, 3, 16, 16)
