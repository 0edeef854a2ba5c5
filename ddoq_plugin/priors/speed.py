"""What makes a network's passes faster and leaves its results as they are, up to rounding."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..compute.onednn import use_onednn
from .batching import is_out_of_memory

LARGE = 10_000_000
"""Parameters from which convolutions are laid out channels-last by default. Stable Diffusion's auto-encoder gains 1.05
to 1.3 times on the CPU and its U-Net 1.3 times; embedded priors are too small to gain (docs/priors.md)."""


def arrange(network: nn.Module, channels_last: bool | None) -> None:
    """Lay the convolutions of ``network`` out channels-last in place; None does so for large networks.

    On a CPU its linear layers multiply by oneDNN in float32."""
    use_onednn(network)
    if channels_last is None:
        channels_last = sum(parameter.numel() for parameter in network.parameters()) >= LARGE
    if channels_last:
        nn.Module.to(network, memory_format=torch.channels_last)  # diffusers' own .to warns needlessly


class Compiled:
    """``torch.compile`` of a network; where compiling fails, a warning and the network as it is.

    Compiling happens in the first call of each shape, and needs a C++ compiler (CPU) or Triton (CUDA)."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.call: Callable = torch.compile(network)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        try:
            return self.call(*arguments, **named)
        except Exception as problem:  # inductor, its compilers and their tools raise many kinds
            if self.call is self.network or is_out_of_memory(problem):
                raise
            reason = str(problem).strip().splitlines() or [""]
            warnings.warn(
                f"torch.compile failed ({type(problem).__name__}: {reason[0][:200]}): the prior runs uncompiled; "
                "install a C++ compiler (CPU) or Triton (CUDA), or leave compile out",
                stacklevel=2,
            )
            self.call = self.network
        return self.network(*arguments, **named)
