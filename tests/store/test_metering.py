from __future__ import annotations

import mmap
import time

import pytest

from ddoq_plugin.store.metering import measure, process_memory_mb

MIB = 2**20


def touch(mib: int) -> None:
    """Hold so much memory for three samples, and give it back to the system."""
    with mmap.mmap(-1, mib * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        block.write(b"1" * (mib * MIB))
        time.sleep(0.06)


def test_peak_is_that_of_the_block_and_not_of_what_came_before():
    touch(300)
    with measure() as meter:
        before = process_memory_mb()
        touch(60)
    assert 50 < meter.peak_memory_mb - before < 130
    assert meter.device == "cpu" and 0.05 < meter.seconds < 5


def test_nested_blocks_have_figures_of_their_own():
    with measure() as outer:
        with measure() as first:
            touch(200)
        with measure() as second:
            time.sleep(0.05)
    assert first.peak_memory_mb - second.peak_memory_mb > 150
    assert outer.peak_memory_mb >= first.peak_memory_mb and outer.seconds > first.seconds + second.seconds - 1e-3


def test_figures_stand_after_an_exception():
    with pytest.raises(ValueError, match="inside"), measure() as meter:
        raise ValueError("inside")
    assert meter.seconds > 0 and meter.peak_memory_mb > 5


@pytest.mark.gpu
def test_peak_on_cuda_is_the_allocator_s():
    import torch

    with measure("cuda") as outer:
        torch.empty(64 * MIB, dtype=torch.uint8, device="cuda")
        with measure("cuda") as inner:
            torch.empty(16 * MIB, dtype=torch.uint8, device="cuda")
    assert inner.peak_memory_mb >= 16 and outer.peak_memory_mb >= 64
    assert outer.peak_memory_mb - inner.peak_memory_mb > 40 and inner.device == torch.cuda.get_device_name()
