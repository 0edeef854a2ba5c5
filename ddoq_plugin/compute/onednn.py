"""Linear layers that multiply by oneDNN in float32, on a CPU.

PyTorch gives such a product to the BLAS it was built with. Its PyPI builds have MKL, which keeps to AVX2 on processors
that are not Intel's and does half of what they can; oneDNN, which every build has for its convolutions, takes AVX-512
wherever it is. PyTorch offers oneDNN's product through an operator of its compiler only; where that is missing, or
takes another form, the layers stay as they are. The same is computed; the last bits differ."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

MIN_ROWS, MIN_MULTIPLICATIONS = 256, 3_000_000  # below either the two are equally fast, the call included


class OneDnnLinear(nn.Linear):
    """``nn.Linear``; large float32 products on a CPU are oneDNN's."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or not self._gains(x):
            return F.linear(x, self.weight, self.bias)
        return _Linear.apply(x, self.weight, self.bias)

    def _gains(self, x: Tensor) -> bool:
        many = x.numel() >= MIN_ROWS * self.in_features
        large = many and x.numel() * self.out_features >= MIN_MULTIPLICATIONS
        plain = x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        return large and plain and x.device.type == "cpu"


def use_onednn(model: nn.Module) -> None:
    """Turn the linear layers of ``model`` into :class:`OneDnnLinear`, where this machine has the means.

    On other devices, in other formats and compiled they are what they were."""
    if _product() is None:
        return
    for module in model.modules():
        if type(module) is nn.Linear:  # a subclass has a meaning of its own
            module.__class__ = OneDnnLinear


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.with_bias = bias is not None
        return _product()(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        x, weight = ctx.saved_tensors
        product, rows = _product(), gradient.flatten(0, -2)
        of_x = product(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        return of_x, product(rows.t(), x.flatten(0, -2).t()), rows.sum(0) if ctx.with_bias else None


@functools.cache
def _product() -> Callable[..., Tensor] | None:
    """Return ``f(x [..., K], weight [N, K], bias [N] or None) = x weight^T + bias``; None where nothing is gained."""
    if not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return None
    try:
        operator = torch.ops.mkldnn._linear_pointwise.default

        def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
            return operator(x, weight, bias, "none", [], "")

        x = torch.arange(6.0).view(2, 3)
        works = torch.equal(product(x, x + 1, x[0, :2]), F.linear(x, x + 1, x[0, :2]))
    except (AttributeError, RuntimeError, TypeError):  # a private operator: another version may have another one
        return None
    return product if works else None
