"""Optimal quantisation of a class: codebooks, their masses and exact W2. Tensors in, tensors out."""

from .api import quantize, quantize_many
from .codebook import WEIGHTINGS, Codebook, effective_sample_size, shape_weights
from .w2 import w2_squared

__all__ = [
    "WEIGHTINGS",
    "Codebook",
    "effective_sample_size",
    "quantize",
    "quantize_many",
    "shape_weights",
    "w2_squared",
]
