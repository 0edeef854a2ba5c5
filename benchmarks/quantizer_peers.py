"""Other quantisers, each as a function of latents, K and seed that returns centroids float32 [K, d]."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def scikit_learn(latents: Tensor, clusters: int, seed: int, restarts: int = 1) -> Tensor:
    from sklearn.cluster import KMeans

    return torch.from_numpy(KMeans(clusters, n_init=restarts, random_state=seed).fit(latents.numpy()).cluster_centers_)


def scikit_learn_minibatch(latents: Tensor, clusters: int, seed: int) -> Tensor:
    from sklearn.cluster import MiniBatchKMeans

    model = MiniBatchKMeans(clusters, n_init="auto", random_state=seed).fit(latents.numpy())
    return torch.from_numpy(model.cluster_centers_)


def d4m_partial_fit(latents: Tensor, clusters: int, seed: int, km_expand: int = 1) -> Tensor:
    """One shuffled pass of ``partial_fit`` in batches of km_expand * K, the left-over dropped, as D4M's code does."""
    from sklearn.cluster import MiniBatchKMeans

    batch = km_expand * clusters
    points = latents.numpy()
    order = np.random.default_rng(seed).permutation(len(points))
    model = MiniBatchKMeans(clusters, random_state=seed, batch_size=batch, n_init="auto")
    for start in range(0, len(points) - batch + 1, batch):
        model.partial_fit(points[order[start : start + batch]])
    return torch.from_numpy(model.cluster_centers_)


def faiss_lloyd(latents: Tensor, clusters: int, seed: int, iterations: int = 25) -> Tensor:
    import faiss

    # faiss warns and subsamples outside of its bounds on points per centroid
    model = faiss.Kmeans(
        latents.shape[1], clusters, niter=iterations, seed=seed + 1, min_points_per_centroid=1,
        max_points_per_centroid=len(latents),
    )  # fmt: skip
    model.train(latents.numpy())
    return torch.from_numpy(model.centroids)


def torch_lloyd(latents: Tensor, clusters: int, seed: int, iterations: int = 25) -> Tensor:
    """The plain version: random samples to start, a distance matrix and ``index_add_`` per iteration."""
    generator = torch.Generator().manual_seed(seed)
    codes = latents[torch.randperm(len(latents), generator=generator)[:clusters]].clone()
    for _ in range(iterations):
        cells = torch.addmm(codes.square().sum(dim=1), latents, codes.T, alpha=-2).argmin(dim=1)
        counts = torch.bincount(cells, minlength=clusters)
        sums = torch.zeros_like(codes).index_add_(0, cells, latents)
        codes = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], codes)
    return codes
