"""The rate of large matrix products on a device: what other rates are given as a share of."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return FLOP/s of a square product (8192 a side on CUDA, 2048 on the CPU), the best of two seconds of them."""
    side = 8192 if device.type == "cuda" else 2048
    factors = torch.randn(2, side, side, device=device).to(dtype)
    seconds: list[float] = []
    while sum(seconds) < 2:
        seconds.append(timed(lambda: factors[0] @ factors[1], device))
    return 2 * side**3 / min(seconds)


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of a call, to the end of what it starts on ``device``."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begun = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun
