"""Optimal quantisation of a class: codebooks, their masses and exact W2. Tensors in, tensors out.

``quantize`` makes one codebook, ``quantize_many`` those of a sweep from one Gram matrix,
``StreamingQuantizer`` one of latents that are read once."""

from .api import quantize, quantize_many
from .codebook import WEIGHTINGS, Codebook, effective_sample_size, shape_weights
from .streaming import StreamingQuantizer, d4m_codebook
from .w2 import w2_squared

__all__ = [
    "WEIGHTINGS",
    "Codebook",
    "StreamingQuantizer",
    "d4m_codebook",
    "effective_sample_size",
    "quantize",
    "quantize_many",
    "shape_weights",
    "w2_squared",
]
