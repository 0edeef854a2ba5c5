"""Guides: what a step shows them, what their shift does, and what is refused."""

from __future__ import annotations

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler

from ddoq_plugin.errors import PriorError
from ddoq_plugin.priors import load_prior
from ddoq_plugin.priors.guide import GUIDABLE, BatchGuide, Guide
from ddoq_plugin.priors.sampling import SCHEDULERS, denoise, make_scheduler, partial_course, whole_course

from .conftest import CLASSES

SETTINGS = {"strength": 0.5, "guidance_scale": 2.0, "steps": 8}
SEEDS = (1, 2, 3, 4, 5)


class Recorder(Guide):
    """Remembers its steps and returns what ``shift`` makes of them."""

    def __init__(self, shift=lambda step: None):
        self.steps, self._shift = [], shift

    @property
    def key(self):
        return {"name": "recorder"}

    def __call__(self, step):
        self.steps.append(step)
        return self._shift(step)


class WholeClasses(Recorder):
    set_wide = True


class Descent(Recorder):
    gradients = True


def run(scheduler, guide, predict=lambda noisy, time: torch.zeros_like(noisy), rows=2, steps=2):
    course = whole_course(scheduler, steps)
    start = torch.randn(rows, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    generators = [torch.Generator().manual_seed(row) for row in range(rows)]
    batch = None if guide is None else BatchGuide(guide, torch.zeros(rows, dtype=torch.long), torch.arange(rows))
    return denoise(predict, course, start, lambda: torch.zeros_like(start), generators, 0.0, batch)


def perfect(own, clean):
    """The output of a network that knows ``clean``, by ``own``'s schedule and prediction type."""

    def predict(noisy, time):
        alpha = float(own.alphas_cumprod[int(time)])
        noise = (noisy.double() - alpha**0.5 * clean) / (1 - alpha) ** 0.5
        velocity = alpha**0.5 * noise - (1 - alpha) ** 0.5 * clean
        return {"epsilon": noise, "sample": clean, "v_prediction": velocity}[own.config.prediction_type].float()

    return predict


@pytest.fixture
def dit(dit_folder):
    loaded = load_prior("dit", path=dit_folder, device="cpu")
    loaded.bind_classes(CLASSES)
    return loaded


def test_a_guide_without_shift_changes_no_bit(prior, latents, class_ids):
    settings = SETTINGS | {"scheduler": "DDIMScheduler", "seeds": SEEDS}
    plain = prior.generate(latents, class_ids, **settings)
    assert torch.equal(prior.generate(latents, class_ids, guide=Recorder(), **settings), plain)
    zeros = Recorder(lambda step: torch.zeros_like(step.z_prev))
    assert torch.equal(prior.generate(latents, class_ids, guide=zeros, **settings), plain)
    moved = Recorder(lambda step: 0.1 * (1 - step.x0))
    assert not torch.equal(prior.generate(latents, class_ids, guide=moved, **settings), plain)
    assert [step.index for step in moved.steps] == [0, 1, 2, 3] and {step.steps for step in moved.steps} == {4}


def test_a_shift_is_added_after_each_of_two_steps():
    scheduler = DDIMScheduler(clip_sample=False)
    guide = Recorder(lambda step: torch.full_like(step.z_prev, 1.0 + step.index))
    plain, guided = run(scheduler, None), run(scheduler, guide)
    # with predicted noise 0, DDIM's step from a_t to a_s multiplies by sqrt(a_s / a_t): the first shift of 1 goes
    # through the second step, the second one of 2 stays as it is
    half, end = scheduler.alphas_cumprod[int(guide.steps[1].time)], scheduler.final_alpha_cumprod
    assert torch.allclose(guided - plain, ((end / half) ** 0.5 + 2).expand_as(plain), atol=1e-5)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_shift_stays_where_the_scheduler_takes_a_guide_and_others_are_refused(name):
    scheduler = make_scheduler(DDIMScheduler(clip_sample=False), name)
    if name not in GUIDABLE:
        with pytest.raises(PriorError, match=f"the scheduler {name} takes no guide"):
            run(scheduler, Recorder(), steps=4)
        return
    for index in range(4):
        # the network's output does not depend on its input: only the latents can carry the shift
        guide = Recorder(lambda step, at=index: torch.ones_like(step.z_prev) if step.index == at else None)
        assert float((run(scheduler, guide, steps=4) - run(scheduler, None, steps=4)).abs().min()) > 1e-3


@pytest.mark.parametrize(
    ("name", "prediction"),
    [
        (name, prediction)
        for name in GUIDABLE
        for prediction in ("epsilon", "sample", "v_prediction")
        if (name, prediction) != ("EulerAncestralDiscreteScheduler", "sample")  # diffusers has no step for it
    ],
)
def test_predicted_clean_latents_are_the_true_ones_of_a_perfect_network(name, prediction):
    own = DDIMScheduler(clip_sample=False, prediction_type=prediction)
    scheduler = make_scheduler(own, name)
    clean = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(1)).double()
    guide = Recorder()
    run(scheduler, guide, perfect(own, clean), steps=4)  # whole times for every scheduler
    assert len(guide.steps) == 4
    # epsilon at the noisiest time divides float32 sums by sqrt(a_t), which is 0.006 there
    assert all(torch.allclose(step.x0, clean.float(), atol=1e-6 / step.alpha_bar**0.5) for step in guide.steps)
    for step in guide.steps:
        assert step.alpha_bar == pytest.approx(float(own.alphas_cumprod[int(step.time)]), rel=1e-4)


@pytest.mark.parametrize("name", GUIDABLE)
def test_latents_and_shifts_have_one_scale_for_every_scheduler(name):
    own = DDIMScheduler(clip_sample=False, prediction_type="v_prediction")
    plain, shifted = Recorder(), Recorder(lambda step: torch.ones_like(step.z_prev) if step.index == 1 else None)
    for guide in (plain, shifted):
        run(make_scheduler(own, name), guide, perfect(own, torch.ones(2, 1, 2, 2).double()), steps=4)
    for step, following in zip(plain.steps[:-1], plain.steps[1:], strict=True):
        assert torch.allclose(step.z_prev, following.z_t, atol=1e-4)
    assert torch.allclose(shifted.steps[2].z_t, plain.steps[2].z_t + 1, atol=1e-4)


def test_sigma_is_what_ancestral_sampling_adds():
    scheduler = diffusers.DDPMScheduler(clip_sample=False)
    guide = Recorder()
    run(scheduler, guide, steps=5)
    variances = [float(scheduler._get_variance(int(step.time))) for step in guide.steps]
    assert [step.sigma_t**2 for step in guide.steps] == pytest.approx(variances, rel=1e-3, abs=1e-6)


def test_rows_and_class_ids_are_those_of_the_whole_call_in_every_batch(dit, latents, class_ids):
    guide = Recorder()
    dit.generate(latents, class_ids, guide=guide, batch_size=2, seeds=SEEDS, **SETTINGS)
    first = [step for step in guide.steps if step.index == 0]
    assert [step.rows.tolist() for step in first] == [[0, 1], [2, 3], [4]]
    assert all(torch.equal(step.class_ids, class_ids[step.rows]) for step in guide.steps)
    assert all(len(step.x0) == len(step.z_t) == len(step.z_prev) == len(step.rows) for step in guide.steps)


def test_a_set_wide_guide_sees_whole_classes_and_images_keep_their_rows(dit, latents, class_ids):
    guide = WholeClasses()
    settings = SETTINGS | {"seeds": SEEDS}
    made = dit.generate(latents, class_ids, guide=guide, batch_size=1, **settings)
    assert [step.rows.tolist() for step in guide.steps if step.index == 0] == [[0, 3], [1, 4], [2]]
    assert torch.allclose(made, dit.generate(latents, class_ids, **settings), atol=1e-5)


def test_a_set_wide_guide_is_refused_where_memory_splits_a_class(dit, latents, class_ids, monkeypatch):
    predict = dit._predict

    def small_memory(noisy, time, condition):
        if len(noisy) > 2:  # two branches of guidance: one image fits
            raise torch.OutOfMemoryError("out of memory")
        return predict(noisy, time, condition)

    monkeypatch.setattr(dit, "_predict", small_memory)
    dit.generate(latents, class_ids, guide=Recorder(), seeds=SEEDS, **SETTINGS)
    with pytest.raises(PriorError, match=r"does not hold the 2 images of a class.*lower ipc"):
        dit.generate(latents, class_ids, guide=WholeClasses(), seeds=SEEDS, **SETTINGS)


def test_a_guide_with_gradients_differentiates_a_loss(dit, latents, class_ids):
    def downhill(step):
        clean = step.x0.detach().requires_grad_()
        (slope,) = torch.autograd.grad((clean**2).sum(), clean)
        return -0.1 * slope

    settings = SETTINGS | {"seeds": SEEDS}
    by_hand = Recorder(lambda step: -0.2 * step.x0)
    expected = dit.generate(latents, class_ids, guide=by_hand, **settings)
    assert torch.allclose(dit.generate(latents, class_ids, guide=Descent(downhill), **settings), expected, atol=1e-5)
    with pytest.raises(RuntimeError, match="does not require grad"):
        dit.generate(latents, class_ids, guide=Recorder(downhill), **settings)


def test_a_guide_is_refused_where_no_step_runs_or_its_shift_is_unusable(dit, latents, class_ids):
    def generate(guide, **changes):
        dit.generate(latents, class_ids, guide=guide, **SETTINGS | {"seeds": SEEDS} | changes)

    with pytest.raises(PriorError, match="a guide needs denoising steps"):
        generate(Recorder(), strength=0.0)
    with pytest.raises(PriorError, match=r"'recorder' returned shape \(1,\)"):
        generate(Recorder(lambda step: torch.zeros(1)))
    with pytest.raises(PriorError, match="'recorder' returned NaN"):
        generate(Recorder(lambda step: step.x0 / 0 * 0))
    pixel = load_prior("pixel", image_size=4, device="cpu")
    pixel.bind_classes(CLASSES)
    with pytest.raises(PriorError, match="a guide needs denoising steps"):
        pixel.generate(
            torch.rand(1, 3, 4, 4),
            torch.zeros(1, dtype=torch.long),
            guide=Recorder(),
            seeds=[1],
            steps=1,
            strength=0.0,
            guidance_scale=1.0,
        )


def test_a_guide_names_the_prediction_type_it_cannot_read():
    scheduler = make_scheduler(DDIMScheduler(), "EulerDiscreteScheduler")
    scheduler.register_to_config(prediction_type="flow_prediction")
    with pytest.raises(PriorError, match="predicts 'flow_prediction'"):
        BatchGuide(Recorder(), torch.zeros(1), torch.zeros(1)).check(scheduler)
    assert partial_course(make_scheduler(DDIMScheduler(), None), 4, 0.5).times.tolist() == [250, 0]
