"""A student as a function of one flat vector of its parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ddoq_plugin.errors import DistillError
from ddoq_plugin.evaluation.features import features_and_logits

if TYPE_CHECKING:
    from ddoq_plugin.distiller import DistillContext


class FlatNetwork:
    """A student as a function of a vector float ``[P]``: its parameters in their order, one after the other.

    Its calls are differentiable with respect to vector and images, as often as the layers are, and may be mapped over
    many vectors by ``torch.func.vmap``. Buffers, such as the running statistics of a batch norm, stay the module's."""

    def __init__(self, module: nn.Module) -> None:
        self.module = _WithFeatures(module)
        named = dict(self.module.named_parameters())
        self.names, self.shapes = list(named), [parameter.shape for parameter in named.values()]
        self.sizes = [parameter.numel() for parameter in named.values()]

    @property
    def size(self) -> int:
        """The number of parameters P."""
        return sum(self.sizes)

    def vector(self) -> Tensor:
        """Return the module's parameters as they are, a copy."""
        return self.flat(parameter.detach() for parameter in self.module.parameters())

    @staticmethod
    def flat(tensors: Iterable[Tensor]) -> Tensor:
        """Return tensors of the parameters' shapes as one vector."""
        return torch.cat([tensor.reshape(-1) for tensor in tensors])

    def tensors(self, vector: Tensor) -> list[Tensor]:
        """Return the parameters that a vector holds, as views of it."""
        parts = vector.split(self.sizes)
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def features_and_logits(self, vector: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features ``[b, d]`` (what the last linear layer takes) and logits ``[b, C]``."""
        named = dict(zip(self.names, self.tensors(vector), strict=True))
        made: tuple[Tensor, Tensor] = torch.func.functional_call(self.module, named, (images,))
        return made

    def logits(self, vector: Tensor, images: Tensor) -> Tensor:
        """Return logits ``[b, C]`` of normalised images."""
        return self.features_and_logits(vector, images)[1]


class _WithFeatures(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return features_and_logits(self.inner, images)


def has_batch_norm(network: nn.Module) -> bool:
    """Return whether an image's features depend on the other images of its batch."""
    return any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in network.modules())


def refuse_batch_norm(context: DistillContext, name: str, method: str) -> None:
    """Raise DistillError for a student whose training changes more than its parameters."""
    if has_batch_norm(context.network(name, "check")):
        raise DistillError(
            f"{method!r} keeps networks as vectors of parameters, and {name} has batch norms, whose statistics are "
            "none; choose a network without, such as convnet3"
        )
