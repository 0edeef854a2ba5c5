"""How a training is run on this machine: number format, memory layout, compilation. What is computed stays the same.

``auto`` in a protocol's ``execution`` becomes one of the plain values here, always the same one for a student on a
machine; results name what was used."""

import contextlib
import ctypes
import functools
import shutil
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..compute.onednn import use_onednn
from ..errors import EvaluationError
from .protocol import Execution
from .students.build import flag_of

GIBIBYTE = 1 << 30
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # glibc's M_MMAP_THRESHOLD and M_TRIM_THRESHOLD (malloc.h)


@dataclass(frozen=True)
class Runtime:
    """What an :class:`Execution` comes to for one student on one device."""

    precision: str = "float32"  # or "bfloat16": the products; parameters, statistics and losses are float32
    channels_last: bool = False
    compiled: bool = False

    def columns(self) -> dict[str, str | bool]:
        """Return it as a result's columns."""
        layout = "channels_last" if self.channels_last else "contiguous"
        return {"precision": self.precision, "memory_format": layout, "compiled": self.compiled}


def resolve(execution: Execution, student: str, device: str | torch.device) -> Runtime:
    """Return how ``student`` is run on ``device``.

    precision auto: bfloat16 for the students registered as equally accurate in it, where the processor multiplies it
    natively. memory_format auto: channels-last for the students registered as faster in it. compile auto: off, since
    nothing was found that gains more by it than it costs; ``true`` needs a C++ compiler on a CPU (EvaluationError)."""
    kind = torch.device(device).type
    precision, layout = execution.precision, execution.memory_format
    if precision == "auto":
        precision = "bfloat16" if flag_of(student, "bfloat16", kind) and multiplies_bfloat16(kind) else "float32"
    last = flag_of(student, "channels_last", kind) if layout == "auto" else layout == "channels_last"
    compiled = execution.compile is True
    if compiled and kind == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++", "cl"))):
        raise EvaluationError("execution.compile is true and there is no C++ compiler; install one or set it to auto")
    return Runtime(precision, last, compiled)


def multiplies_bfloat16(kind: str) -> bool:
    """Return whether a device of this ``kind`` has instructions for products in bfloat16."""
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= 8
    return kind == "cpu" and any(
        getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )


def arranged(model: nn.Module, running: Runtime) -> nn.Module:
    """Return ``model``, changed to what ``running`` is fastest with.

    Its weights are put in the memory format. On a CPU, float32 products of linear layers become oneDNN's, and timm's
    attention is spelt out in bfloat16, where the backward pass of PyTorch's fused one takes six times as long."""
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    if on_cpu:
        use_onednn(model)
    if on_cpu and running.precision == "bfloat16":
        for module in model.modules():
            if getattr(module, "fused_attn", False):
                module.fused_attn = False  # type: ignore[assignment]
    return model.to(memory_format=torch.channels_last) if running.channels_last else model


def called(model: nn.Module, running: Runtime) -> Any:
    """Return what is called in the place of ``model``: its compiled form where that is asked for.

    On CUDA it replays CUDA graphs, which costs a small student's step its launches."""
    if not running.compiled:
        return model
    on_cuda = next(model.parameters()).is_cuda
    return torch.compile(model, dynamic=False, mode="reduce-overhead" if on_cuda else None)


def forward(model: nn.Module, images: Tensor, running: Runtime) -> Tensor:
    """Return float32 logits of normalised ``images``."""
    if running.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    if running.precision == "bfloat16":
        with torch.autocast(images.device.type, torch.bfloat16):
            return model(images).float()
    return model(images)


@functools.cache
def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next step, for the rest of the process.

    By default glibc returns blocks of more than 32 MiB to the system at once, and the next step of a ConvNet-3 at 32 px
    waits for the same pages to be zeroed again: half of its float32 time. Where there is no glibc nothing happens."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(MMAP_THRESHOLD, GIBIBYTE)
        library.mallopt(TRIM_THRESHOLD, GIBIBYTE)
