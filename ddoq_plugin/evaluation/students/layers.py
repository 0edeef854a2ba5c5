"""Layers that the student families share: norms by name, and instance norm + ReLU + pooling in one go on a CPU.

PyTorch takes a pass over memory for each of them, several for a norm's backward pass, and its group norm is slow in
channels-last, which convolutions like best. :mod:`.kernels` takes them together, image by image in the cache; the last
bits differ. (Batch norm gains nothing by it: it needs the whole batch, and the call costs what the pass saves.)"""

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

LAST = torch.channels_last


def make_norm(name: str, channels: int) -> nn.Module:
    """Return the norm called ``name``: "instance" (affine GroupNorm of one channel a group), "batch" or "none"."""
    if name == "instance":
        return nn.GroupNorm(channels, channels)
    return nn.BatchNorm2d(channels) if name == "batch" else nn.Identity()


class Classifier(nn.Module):
    """Features, flattened, and one linear layer; norms in the features are taken together with what follows."""

    def __init__(self, features: list[nn.Module], classifier: nn.Module) -> None:
        super().__init__()
        self.features = nn.Sequential(*features)
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(in_sequence(self.features, x).flatten(1))


def start_convolutions(model: nn.Module) -> None:
    """Draw the weights of every convolution as torchvision's ResNets do."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def in_sequence(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Return ``layers(x)``; a norm with the ReLU and 2x2 average pooling that follow it is taken in one pass."""
    modules, at = list(layers), 0
    while at < len(modules):
        layer, after = modules[at], modules[at + 1 : at + 3]
        if isinstance(layer, nn.GroupNorm) and after and isinstance(after[0], nn.ReLU):
            pool = 2 if isinstance(after[-1], nn.AvgPool2d) and after[-1].kernel_size == 2 else 1
            x, at = norm_relu_pool(x, layer, pool=pool), at + 1 + pool
        else:
            x, at = layer(x), at + 1
    return x


def norm_relu_pool(x: Tensor, norm: nn.Module, *, relu: bool = True, pool: int = 1) -> Tensor:
    """Return ``x`` [B, C, H, W] after ``norm``, ReLU (where ``relu``) and average pooling of ``pool`` x ``pool`` (1 or
    2; an odd last row or column is dropped, as ``AvgPool2d(2)`` does)."""
    if _kernels_fit(x, norm, pool):
        return _InstanceNorm.apply(x, norm.weight, norm.bias, norm.eps, relu, pool)
    x = norm(x)
    if relu:
        x = F.relu(x, inplace=True)
    return F.avg_pool2d(x, 2) if pool == 2 else x


def _kernels_fit(x: Tensor, norm: nn.Module, pool: int) -> bool:
    """Whether this is instance norm, as ``make_norm`` makes it, of channels-last float32 or bfloat16 maps on a CPU."""
    return (
        isinstance(norm, nn.GroupNorm)
        and norm.affine
        and norm.num_groups == norm.num_channels
        and norm.weight.dtype == torch.float32
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.is_contiguous(memory_format=LAST)
        and (pool == 1 or not (x.shape[2] % 2 or x.shape[3] % 2))
        and not torch.compiler.is_compiling()
    )


class _InstanceNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, gamma, beta, epsilon, relu, pool):
        from .kernels import forward

        b, c, h, w = x.shape
        y = torch.empty((b, c, h // pool, w // pool), dtype=x.dtype, memory_format=LAST)
        mean, scale = torch.empty(2, b, c)
        lower = np.float32(0 if relu else -np.inf)
        _over_images(forward, b, _map(x), gamma.detach().numpy(), beta.detach().numpy(), np.float32(epsilon), lower,
                     pool, _map(y), mean.numpy(), scale.numpy())  # fmt: skip
        ctx.save_for_backward(x, gamma, beta, mean, scale)
        ctx.lower, ctx.pool = lower, pool
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, gy):
        from .kernels import backward

        x, gamma, beta, mean, scale = ctx.saved_tensors
        gy = gy.contiguous(memory_format=LAST)
        gx, ggamma, gbeta = torch.empty_like(x), torch.empty_like(mean), torch.empty_like(mean)
        fixed = [tensor.detach().numpy() for tensor in (gamma, beta, mean, scale)]
        _over_images(backward, len(x), _map(gy), _map(x), *fixed, ctx.lower, ctx.pool, _map(gx), ggamma.numpy(),
                     gbeta.numpy())  # fmt: skip
        return gx, ggamma.sum(0), gbeta.sum(0), None, None, None


def _map(x: Tensor) -> np.ndarray:
    """Return channels-last ``x`` [B, C, H, W] as an array [B, H, W, C] of the same memory, bfloat16 as uint16."""
    rows = x.detach().permute(0, 2, 3, 1)
    return (rows.view(torch.uint16) if x.dtype == torch.bfloat16 else rows).numpy()


def _over_images(kernel: Callable, images: int, *arguments: object) -> None:
    """Call ``kernel(*arguments, first, last)`` on as many threads as PyTorch has; each image's result is the same."""
    threads = min(torch.get_num_threads(), images)
    ends = [images * part // threads for part in range(threads + 1)]
    others = [_pool(os.getpid()).submit(kernel, *arguments, ends[i], ends[i + 1]) for i in range(1, threads)]
    kernel(*arguments, ends[0], ends[1])
    for other in others:
        other.result()


@functools.cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Return the threads of this process (a forked one has none of its parent's)."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="student-layers")
