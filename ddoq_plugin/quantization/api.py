"""``quantize`` and ``quantize_many``, the quantiser's front door, and which way of quantising costs less."""

import itertools
from collections.abc import Sequence

from torch import Tensor

from ..errors import QuantizationError
from .checks import as_matrix, as_weights, check_clusters
from .codebook import Codebook
from .gram_codebooks import default_restarts, gram_codebooks
from .lloyd import lloyd_codebook
from .matmul import full_precision
from .streaming import streamed_codebook

METHODS = ("auto", "gram", "lloyd", "minibatch", "d4m")
MASSES = ("voronoi", "balanced")
_ITERATIONS = 20  # passes over the samples that Lloyd, or Lloyd and exchange together, need on latents
_GRAM_BYTES = 2 << 30  # a Gram matrix is float64: 16,384 samples
_ALWAYS_GRAM = 2048
_WORTH = 1.5


def quantize(
    latents: Tensor,
    clusters: int,
    *,
    seed: int = 0,
    weights: Tensor | None = None,
    method: str = "auto",
    masses: str = "voronoi",
    restarts: int | None = None,
    exchange: bool = True,
    max_iterations: int = 300,
    batch_size: int | None = None,
    name: str | None = None,
) -> Codebook:
    """Quantise one class to K weighted centroids: minimise W2 between its samples and the codebook.

    ``latents`` [N, ...] have any real type and layout; they are flattened to [N, d]. ``clusters`` is K, 1 <= K <= N
    (samples of weight zero do not count). The same ``seed`` on the same machine gives the same result. ``weights`` of
    the samples are non-negative [N], any scale; None: all equal. ``name`` is the class's, for messages.

    ``method``: "gram" (greedy k-means++, Lloyd and Hartigan's exchange on the Gram matrix, see ``gram_kernels``),
    "lloyd" (blocked matrix products, linear in N), "minibatch" (one shuffled pass with the step 1/count), "d4m" (that
    pass as D4M's published code makes it, see ``d4m_codebook``) or "auto": gram or lloyd by the cost model of
    ``gram_pays``. ``masses``: "voronoi": a centroid's mass is the share of the samples nearest to it; "balanced": all
    masses are 1/K and samples go to centroids by exact transport (only with "auto" or "gram").

    Of ``restarts`` from different draws the best is kept (only "gram"); None: 2 for K up to 50, else 1. ``exchange``
    says whether Hartigan's exchange follows Lloyd (only "gram"). ``max_iterations`` limits Lloyd's steps, exchange
    sweeps and balanced alternations. ``batch_size`` is that of "minibatch" (None: max(256, 8 K)) or of "d4m" (its
    km_expand * K; None: K as in its published script).

    The codebook is on the device of the latents. Raises QuantizationError where K is out of range, a sample holds NaN
    or infinity (class and sample named), weights are bad or options do not go together."""
    made = quantize_many(
        latents, [clusters], [seed], weights=weights, method=method, masses=masses, restarts=restarts,
        exchange=exchange, max_iterations=max_iterations, batch_size=batch_size, name=name,
    )  # fmt: skip
    return made[clusters, seed]


@full_precision()
def quantize_many(
    latents: Tensor,
    clusters: Sequence[int],
    seeds: Sequence[int],
    *,
    weights: Tensor | None = None,
    method: str = "auto",
    masses: str = "voronoi",
    restarts: int | None = None,
    exchange: bool = True,
    max_iterations: int = 300,
    batch_size: int | None = None,
    name: str | None = None,
) -> dict[tuple[int, int], Codebook]:
    """Quantise one class for every K of ``clusters`` and every seed; one Gram matrix serves them all.

    ``{(K, seed): codebook}``, each the same as ``quantize(latents, K, seed=seed, ...)`` gives, which has the options
    and the errors."""
    balanced, streams = masses == "balanced", method in ("minibatch", "d4m")
    if method not in METHODS:
        raise QuantizationError(f"Unknown quantisation method {method!r}: use one of {', '.join(METHODS)}.")
    if masses not in MASSES:
        raise QuantizationError(f"Unknown masses {masses!r}: use one of {', '.join(MASSES)}.")
    if balanced and method not in ("auto", "gram"):
        raise QuantizationError(f"Balanced masses are made in the Gram domain: use method 'gram', not {method!r}.")
    if restarts is not None and restarts < 1:
        raise QuantizationError(f"restarts must be 1 or more, not {restarts}.")
    if max_iterations < 1:
        raise QuantizationError(f"max_iterations must be 1 or more, not {max_iterations}.")
    if batch_size is not None and not streams:
        raise QuantizationError(f"batch_size belongs to the methods 'minibatch' and 'd4m', not to {method!r}.")
    if weights is not None and streams:
        raise QuantizationError(f"The method {method!r} takes no sample weights: use 'gram' or 'lloyd'.")
    points = as_matrix(latents, name)
    shares = as_weights(weights, points, name)
    check_clusters(clusters, points, shares, name)
    samples, dimensions = points.shape
    found: dict[tuple[int, int], Codebook] = {}
    in_gram_domain = []
    for key in itertools.product(dict.fromkeys(map(int, clusters)), dict.fromkeys(map(int, seeds))):
        if streams:
            found[key] = streamed_codebook(points, *key, batch_size, method == "d4m", name)
        elif method != "lloyd" and (method == "gram" or balanced or gram_pays(samples, dimensions, key[0], restarts)):
            in_gram_domain.append(key)
        else:
            found[key] = lloyd_codebook(points, shares, *key, max_iterations, name)
    if in_gram_domain:
        # many small dependent steps: on the CPU also where the latents lie on a GPU
        on_cpu = points.cpu(), None if shares is None else shares.cpu()
        made = gram_codebooks(*on_cpu, name, in_gram_domain, restarts, exchange, max_iterations, balanced)
        found |= {key: book.to(points.device) for key, book in made.items()}
    return found


def gram_pays(samples: int, dimensions: int, clusters: int, restarts: int | None = None) -> bool:
    """Whether a codebook is made in the Gram domain rather than by direct Lloyd.

    In multiply-adds: Gram takes N^2 d / 2 for the product (symmetric), then per restart N^2 for the sums and 20 passes
    of 3 N K; direct Lloyd takes 20 passes of N K (d + 3). The Gram matrix, 8 N^2 bytes, must stay below 2 GiB.

    Where it costs up to one and a half times as much it is still taken, for the distortion that exchange gains; always
    up to 2048 samples, where that is 0.5-6 %. The gain falls with the samples per cell, so it buys no more. The other
    codebooks of a sweep, which would share the product, are left out of the account: a codebook must not depend on
    what else was asked for."""
    if 8 * samples**2 > _GRAM_BYTES:
        return False
    restarts = restarts or default_restarts(clusters)
    passes = _ITERATIONS * samples * clusters
    gram = samples**2 * dimensions / 2 + restarts * (samples**2 + 3 * passes)
    return samples <= _ALWAYS_GRAM or gram <= _WORTH * passes * (dimensions + 3)
