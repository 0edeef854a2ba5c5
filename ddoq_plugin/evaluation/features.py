"""What a student makes of images before its last layer."""

from torch import Tensor, nn

from ..errors import EvaluationError


def last_linear(model: nn.Module, name: str = "") -> nn.Linear:
    """Return the layer that takes a student's features; EvaluationError for a network without one."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        called = name or type(model).__name__
        raise EvaluationError(f"{called} has no linear layer to take features before; choose another student")
    return layers[-1]


def features_and_logits(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return a student's penultimate activations ``[b, d]`` and logits ``[b, C]`` from one pass; both carry gradients.

    The activations are what its last linear layer takes. Raises EvaluationError for a network without one."""
    seen: list[Tensor] = []
    handle = last_linear(model).register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    try:
        logits = model(images)
    finally:
        handle.remove()
    return seen[-1].flatten(1), logits


def features_of(model: nn.Module, images: Tensor) -> Tensor:
    """Return a student's penultimate activations ``[b, d]``; see :func:`features_and_logits`."""
    return features_and_logits(model, images)[0]
