"""How many images a forward pass takes: a size that fits in memory, found without ever dying of it."""

import gc
import warnings
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

import psutil
import torch
from torch import Tensor

from ..errors import PriorError

AUTO = "auto"

CPU_BATCH, CPU_BUDGET = 64, 2**30
"""On the CPU: 64 images, halved until the estimated working memory of a pass is below 1 GiB (less where less than
twice that is free). A fixed budget, so that the size, and with it the rounding, does not follow the machine's load."""

CUDA_BATCH, CUDA_SHARE = 256, 0.8
"""On CUDA: at most 256 images, in at most this share of the memory that is free when the size is first needed."""

_SIGNS = ("out of memory", "not enough memory", "can't allocate memory", "alloc_failed")


class Batching:
    """The batch size of each stage ("encode", "denoise", "decode") of a prior, learnt from what fits.

    ``wanted`` is a number of images, or "auto": the largest power of two that an estimate of the memory allows. A pass
    that runs out of memory is repeated with half its images, and the size that failed is not tried again.
    ``image_bytes`` estimates the working memory of a stage for one image."""

    def __init__(self, wanted: int | str, device: torch.device, image_bytes: Callable[[str], int]) -> None:
        self.wanted = None if wanted == AUTO else positive(wanted)
        self.device, self.image_bytes = device, image_bytes
        self._estimates: dict[str, int] = {}
        self._ceilings: dict[str, int] = {}

    def size(self, stage: str, wanted: int | None = None) -> int:
        """Return the number of images that the next pass of ``stage`` takes (``wanted`` is a size of this call)."""
        start = wanted or self.wanted or self._estimate(stage)
        return min(start, self._ceilings.get(stage, start))

    def run(
        self,
        stage: str,
        total: int,
        forward: Callable[[slice], Tensor],
        *,
        wanted: int | None = None,
        whole: Sequence[int] | None = None,
        advance: Callable[[int], object] = lambda _: None,
        last_resort: Callable[[], bool] = lambda: False,
    ) -> list[Tensor]:
        """Return ``forward(part)`` for consecutive slices that cover ``total`` images.

        Where a pass runs out of memory, the work goes on from its first image with half the size. Where one image is
        too much, ``last_resort`` may find a way to need less (it says whether it did); otherwise PriorError.
        ``advance`` is told the number of images of each finished pass. ``whole`` are the sizes of consecutive groups
        that no pass may split: a pass takes at least one of them, and PriorError where that is too much for the memory.
        """
        ends = list(accumulate(whole)) if whole is not None else range(1, total + 1)
        done: list[Tensor] = []
        start = 0
        while start < total:
            first = bisect_right(ends, start)
            last = max(first, bisect_right(ends, start + self.size(stage, wanted)) - 1)
            count = ends[last] - start
            made = self._attempt(forward, slice(start, ends[last]))
            if made is not None:
                done.append(made)
                advance(count)
                start = ends[last]
            elif whole is not None and first == last:
                raise PriorError(
                    f"the memory of {self.device} does not hold the {count} images of a class, and the guide needs all "
                    "of them at every step: lower ipc, load the prior with dtype='bfloat16', or take a guide that is "
                    "not set-wide"
                )
            else:
                self._shrink(stage, count, last_resort)
        return done

    def _attempt(self, forward: Callable[[slice], Tensor], part: slice) -> Tensor | None:
        try:
            return forward(part)
        except (RuntimeError, MemoryError) as problem:
            if not is_out_of_memory(problem):
                raise
        # outside the handler: the exception kept the frames, and so the tensors, of the failed pass alive
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _shrink(self, stage: str, failed: int, last_resort: Callable[[], bool]) -> None:
        if failed == 1:
            if last_resort():
                return
            raise PriorError(
                f"the memory of {self.device} does not hold one image's {stage} pass: free memory, load the prior with "
                "dtype='bfloat16', or take smaller images"
            )
        fits = _power_of_two(failed - 1)
        if self.wanted is not None and stage not in self._ceilings:
            warnings.warn(
                f"{stage}: {failed} images at once do not fit in the memory of {self.device}; going on with {fits}",
                stacklevel=4,
            )
        self._ceilings[stage] = fits

    def _estimate(self, stage: str) -> int:
        if stage not in self._estimates:
            most, budget = CPU_BATCH, min(CPU_BUDGET, psutil.virtual_memory().available // 2)
            if self.device.type == "cuda":
                most, budget = CUDA_BATCH, int(CUDA_SHARE * free_cuda_memory(self.device))
            self._estimates[stage] = _power_of_two(max(1, min(most, budget // max(1, self.image_bytes(stage)))))
        return self._estimates[stage]


def free_cuda_memory(device: torch.device) -> int:
    """Return the bytes that tensors can still take on ``device``: what is free and what torch keeps unused."""
    kept, used = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept - used


def is_out_of_memory(problem: BaseException) -> bool:
    """Say whether an exception means that memory ran out (torch has several kinds, by device and by library)."""
    told = isinstance(problem, RuntimeError) and any(sign in str(problem).lower() for sign in _SIGNS)
    return told or isinstance(problem, (torch.OutOfMemoryError, MemoryError))


def positive(batch_size: int | str) -> int:
    """Return a batch size that is a positive number; PriorError for anything else."""
    if not isinstance(batch_size, int) or batch_size < 1:
        raise PriorError(f"batch_size is {batch_size!r}: give a positive number of images, or 'auto'")
    return batch_size


def _power_of_two(most: int) -> int:
    return 1 << (most.bit_length() - 1)
