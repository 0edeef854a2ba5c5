"""The batch size: where it starts, and that running out of memory costs no finished image."""

from __future__ import annotations

import warnings

import pytest
import torch

from ddoq_plugin.errors import PriorError
from ddoq_plugin.priors import batching, load_prior
from ddoq_plugin.priors.batching import Batching, is_out_of_memory

CPU = torch.device("cpu")
SETTINGS = {"strength": 0.7, "guidance_scale": 3.0, "steps": 4}


def out_of_memory(kind: int) -> Exception:
    return [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes."),
        MemoryError(),
    ][kind]


class Narrow:
    """A forward pass that holds at most ``limit`` images; it keeps the slices that it was asked for."""

    def __init__(self, limit: int, kind: int = 0) -> None:
        self.limit, self.kind = limit, kind
        self.asked: list[tuple[int, int]] = []

    def __call__(self, part: slice) -> torch.Tensor:
        self.asked.append((part.start, part.stop))
        if part.stop - part.start > self.limit:
            raise out_of_memory(self.kind)
        return torch.arange(part.start, part.stop)


@pytest.mark.parametrize("kind", range(4))
def test_running_out_of_memory_halves_and_goes_on_where_it_stopped(kind):
    sizes, forward, advanced = Batching("auto", CPU, lambda stage: 1), Narrow(11, kind), []
    made = sizes.run("denoise", 100, forward, advance=advanced.append)
    assert torch.equal(torch.cat(made), torch.arange(100))
    assert forward.asked[:4] == [(0, 64), (0, 32), (0, 16), (0, 8)] and (8, 16) in forward.asked
    assert sum(advanced) == 100 and max(advanced) == 8
    forward.asked.clear()
    sizes.run("denoise", 20, forward)
    assert forward.asked == [(0, 8), (8, 16), (16, 20)]  # the size is remembered: nothing fails again
    assert sizes.size("decode") == 64  # of this stage alone


def test_memory_that_shrinks_later_loses_no_finished_image():
    sizes, forward = Batching("auto", CPU, lambda stage: 1), Narrow(64)

    def crowded(part: slice) -> torch.Tensor:
        forward.limit = 64 if part.start < 128 else 5
        return forward(part)

    made = sizes.run("encode", 200, crowded)
    assert torch.equal(torch.cat(made), torch.arange(200))
    assert forward.asked.count((0, 64)) == 1 and forward.asked.count((64, 128)) == 1


def test_a_part_of_a_batch_that_fails_is_halved_itself():
    sizes, forward = Batching(64, CPU, lambda stage: 1), Narrow(3)
    with pytest.warns(UserWarning, match="10 images at once do not fit in the memory of cpu; going on with 8"):
        made = sizes.run("denoise", 10, forward)
    assert torch.equal(torch.cat(made), torch.arange(10)) and sizes.size("denoise") == 2


def test_one_image_too_much_takes_the_last_resort_or_is_told():
    sizes, forward = Batching("auto", CPU, lambda stage: 1), Narrow(0)
    with pytest.raises(PriorError, match="does not hold one image's decode pass"):
        sizes.run("decode", 4, forward)

    def resort() -> bool:
        forward.limit = 1
        return True

    assert torch.equal(torch.cat(sizes.run("decode", 3, forward, last_resort=resort)), torch.arange(3))


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def broken(part: slice) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        Batching("auto", CPU, lambda stage: 1).run("encode", 2, broken)
    assert not is_out_of_memory(ValueError("out of memory"))


def test_auto_starts_from_an_estimate_of_the_memory(monkeypatch):
    mib = 2**20
    assert Batching("auto", CPU, lambda stage: 1).size("encode") == 64
    by_stage = {"encode": 100 * mib, "denoise": 16 * mib, "decode": 5000 * mib}
    sizes = Batching("auto", CPU, by_stage.get)
    assert [sizes.size(stage) for stage in by_stage] == [8, 64, 1]
    assert Batching(7, CPU, by_stage.get).size("encode") == 7
    assert Batching(7, CPU, by_stage.get).size("encode", wanted=3) == 3
    monkeypatch.setattr(batching, "free_cuda_memory", lambda device: 100 * 1024 * mib)
    cuda = Batching("auto", torch.device("cuda"), by_stage.get)
    assert [cuda.size(stage) for stage in by_stage] == [256, 256, 16]


@pytest.mark.parametrize("wrong", [0, -3, "many", 2.5, None])
def test_sizes_that_are_none_are_told(dit_folder, wrong):
    with pytest.raises(PriorError, match="batch_size is .*'auto'"):
        load_prior("dit", path=dit_folder, device="cpu", batch_size=wrong)


def test_a_prior_that_runs_out_of_memory_makes_the_same_images(prior, latents, class_ids, monkeypatch):
    """Every stage fails above its own limit; the images are those of a whole batch."""
    seeds = [3, 1, 4, 1, 5]
    whole = prior.generate(latents, class_ids, seeds=seeds, **SETTINGS)
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    encoded = prior.encode(images)
    inverted = prior.invert(latents, class_ids, steps=3)
    largest = {"_predict": 2 * 2, "_decode": 1, "_encode": 3}
    seen = {name: [] for name in largest}
    for name, limit in largest.items():
        original = getattr(prior, name)

        def limited(*arguments, name=name, limit=limit, original=original):
            seen[name].append(len(arguments[0]))
            if len(arguments[0]) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return original(*arguments)

        monkeypatch.setattr(prior, name, limited)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a size that nobody asked for changes silently
        for made, expected in [
            (prior.generate(latents, class_ids, seeds=seeds, **SETTINGS), whole),
            (prior.encode(images), encoded),
            (prior.invert(latents, class_ids, steps=3), inverted),
        ]:
            torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)
    assert min(max(sizes) for sizes in seen.values()) > 1  # each has failed
    assert prior.batch_size == 2
    assert prior.batching.size("decode") == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_real_lack_of_cuda_memory_is_survived(dit_folder, class_ids, latents):
    prior = load_prior("dit", path=dit_folder, device="cuda", dtype="float32")
    prior.bind_classes(prior.known_classes)
    whole = prior.generate(latents, class_ids, seeds=range(5), **SETTINGS)
    original = prior._predict

    def greedy(noisy, time, condition):
        if len(noisy) > 4:
            torch.empty(2**50, device="cuda")
        return original(noisy, time, condition)

    prior._predict = greedy
    torch.testing.assert_close(prior.generate(latents, class_ids, seeds=range(5), **SETTINGS), whole, atol=1e-4, rtol=0)
    assert prior.batch_size == 2
