"""Quantisation of latents that are read once: competitive learning (CLVQ) with the step 1/count, in mini-batches.

A batch moves each centroid to the mean of all samples it has ever been given, z_k += sum_batch (x - z_k) / count_k:
CLVQ's step 1/count (MacQueen 1967; Pages 2015), a batch at a time, as scikit-learn's MiniBatchKMeans and so D4M's code
do it. Memory is one batch and the codebook. What the stream leaves over is fitted too, for every class; the masses come
from one last pass, because counts gathered while centroids move are not the masses of the final cells."""

import math

import torch
from torch import Tensor

from ..errors import QuantizationError
from ..seeding import generator
from .checks import as_matrix, called, check_clusters, check_finite, too_large
from .codebook import Codebook, codebook_of
from .gram import gram_matrix
from .gram_codebooks import gram_codebooks, seeded_labels
from .lloyd import assign, cell_sums, nearest_code, working_dtype
from .matmul import full_precision

_BATCH = 256  # samples of a batch, or
_BATCH_PER_CLUSTER = 8  # times K where that is more
_REASSIGNED = 0.01  # scikit-learn's default reassignment_ratio, with which D4M's code runs
_REASSIGN_EVERY = 10  # samples per cluster between two reassignments, as in scikit-learn


class StreamingQuantizer:
    """One class, read once.

    Feed ``update`` with latents as they come, call ``finish``, then ``codebook`` with the same latents for the masses.

    Args:
        clusters: number of centroids, K.
        seed: drives the start and, with ``published``, the reassignment.
        batch_size: samples held and fitted at a time, at least K; None: max(256, 8 K), K with ``published``.
        published: scikit-learn's start (greedy k-means++ of the first batch, one step) and its random reassignment of
            starved centroids, as D4M's published code runs it; otherwise the first batch is quantised in full and
            a starved centroid is left alone.
        name: of the class, for messages.

    Raises:
        QuantizationError: K below 1, or a batch smaller than K.
    """

    def __init__(
        self,
        clusters: int,
        *,
        seed: int = 0,
        batch_size: int | None = None,
        published: bool = False,
        name: str | None = None,
    ) -> None:
        if clusters < 1:
            raise QuantizationError(f"The number of clusters must be 1 or more, not {clusters}.")
        self.clusters = clusters
        default = clusters if published else max(_BATCH, _BATCH_PER_CLUSTER * clusters)
        self.batch_size = default if batch_size is None else batch_size
        if self.batch_size < clusters:
            raise QuantizationError(f"A batch of {batch_size} samples cannot start {clusters} clusters: enlarge it.")
        self.seed = seed
        self.published = published
        self.name = name
        self._waiting: list[Tensor] = []
        self._codes: Tensor | None = None
        self._counts = torch.zeros(0)  # samples that each centroid has been given
        self._centre = torch.zeros(0)  # of the first batch; products are taken from there
        self._rows = torch.empty(0)
        self._since_reassignment = 0
        self._random = generator("quantize stream", seed)

    @property
    def centroids(self) -> Tensor:
        """The centroids [K, d] so far."""
        if self._codes is None:
            raise QuantizationError(f"No batch of {called(self.name)} has been fitted yet: call finish() first.")
        return self._codes.to(torch.float32)

    def update(self, latents: Tensor) -> None:
        """Take latents [n, ...]; fit as soon as a batch is full.

        Raises:
            QuantizationError: a sample holds NaN or infinity (named).
        """
        points = as_matrix(latents, self.name)
        check_finite(points, self.name)
        self._waiting.append(points)
        if sum(map(len, self._waiting)) < self.batch_size:
            return
        points = torch.cat(self._waiting) if len(self._waiting) > 1 else points
        full = len(points) - len(points) % self.batch_size
        for start in range(0, full, self.batch_size):
            self._fit(points[start : start + self.batch_size])
        self._waiting = [points[full:].clone()] if full < len(points) else []

    def finish(self) -> None:
        """Fit what is left over.

        Raises:
            QuantizationError: the class had fewer samples than clusters.
        """
        if self._waiting:
            points = torch.cat(self._waiting)
            self._waiting = []
            self._fit(points)
        if self._codes is None:
            raise QuantizationError(f"No latents of {called(self.name)} came: feed update() first.")

    @full_precision()
    def codebook(self, latents: Tensor) -> Codebook:
        """Return the codebook with the Voronoi masses of ``latents`` [N, ...], which may be memory-mapped.

        A centroid that is nearest to no sample moves to the costliest one, so that every mass is positive."""
        if self._codes is None:
            raise QuantizationError(f"No batch of {called(self.name)} has been fitted yet: call finish() first.")
        points = as_matrix(latents, self.name)
        found = assign(points, None, self._codes, self._centre)
        if not math.isfinite(found.distortion):
            check_finite(points, self.name)
            raise too_large(self.name)
        return codebook_of(found.codes, found.labels, found.distances, None)

    @full_precision()
    def _fit(self, batch: Tensor) -> None:
        if self._codes is None:
            self._begin(batch)
            return
        if len(self._rows) < len(batch):  # one buffer for all batches: fresh memory costs more than the subtraction
            self._rows = torch.empty_like(batch, dtype=self._codes.dtype)
        rows = torch.sub(batch.to(self._codes.dtype), self._centre, out=self._rows[: len(batch)])
        codes = self._codes - self._centre
        _, cells, _ = nearest_code(rows, -2 * codes, (codes * codes).sum(dim=1))
        gained = torch.bincount(cells, minlength=self.clusters).to(codes.dtype)
        self._counts += gained
        step = (cell_sums(cells, rows, self.clusters) - gained[:, None] * codes) / self._counts.clamp(min=1)[:, None]
        self._codes += step
        if self.published:
            self._reassign(batch)

    def _begin(self, batch: Tensor) -> None:
        check_clusters([self.clusters], batch, None, self.name)
        self._centre = batch.to(working_dtype(batch)).mean(dim=0)
        if self.published:
            gram = gram_matrix(batch.cpu(), None, self.name)
            labels = torch.from_numpy(seeded_labels(gram, self.clusters, self.seed)[0]).to(batch.device)
            counts = torch.bincount(labels, minlength=self.clusters)
            rows = batch.to(self._centre.dtype) - self._centre
            self._codes = cell_sums(labels, rows, self.clusters) / counts[:, None] + self._centre
        else:
            key = (self.clusters, self.seed)
            book = gram_codebooks(batch.cpu(), None, self.name, [key])[key]
            self._codes = book.centroids.to(batch.device, self._centre.dtype)
            counts = torch.bincount(book.assignment, minlength=self.clusters).to(batch.device)
        self._counts = counts.to(self._codes.dtype)

    def _reassign(self, batch: Tensor) -> None:
        """Put starved centroids on random samples of the batch, as scikit-learn's MiniBatchKMeans does."""
        self._since_reassignment += len(batch)
        if self._since_reassignment < _REASSIGN_EVERY * self.clusters:
            return
        self._since_reassignment = 0
        starved = self._counts < _REASSIGNED * self._counts.max()
        limit = len(batch) // 2
        if int(starved.sum()) > limit:
            starved[self._counts.argsort(stable=True)[limit:]] = False
        number = int(starved.sum())
        if number:
            rows = torch.randperm(len(batch), generator=self._random)[:number].to(batch.device)
            self._codes[starved] = batch[rows].to(self._codes.dtype)
            self._counts[starved] = self._counts[~starved].min()


def streamed_codebook(
    points: Tensor, clusters: int, seed: int, batch_size: int | None, published: bool, name: str | None
) -> Codebook:
    """Quantise ``points`` [N, d] in one pass over a shuffled order, then take the masses in a second."""
    check_finite(points, name)  # before the shuffle, which would change the number of a sample
    stream = StreamingQuantizer(clusters, seed=seed, batch_size=batch_size, published=published, name=name)
    order = torch.randperm(len(points), generator=generator("quantize order", seed)).to(points.device)
    drawn = torch.empty_like(points[: stream.batch_size])
    for chosen in order.split(stream.batch_size):
        stream.update(torch.index_select(points, 0, chosen, out=drawn[: len(chosen)]))
    stream.finish()
    return stream.codebook(points)


def d4m_codebook(
    latents: Tensor, clusters: int, *, km_expand: int = 1, seed: int = 0, name: str | None = None
) -> Codebook:
    """Quantise latents [N, ...] as D4M's published code does: one shuffled pass in batches of ``km_expand`` * K.

    D4M (Su et al. 2024, arXiv 2407.15138; code suduo94/D4M) calls ``partial_fit`` of scikit-learn's MiniBatchKMeans per
    batch; ``km_expand`` is 1 in its published script and 10 in its default. Its masses are not used there (uniform
    weights). Two faults of that code are mended: what is left over at the end is fitted for every class, not only for
    the last, and a class smaller than one batch is fitted instead of raising AttributeError.

    Raises:
        QuantizationError: ``km_expand`` below 1, K above N, NaN or infinity.
    """
    if km_expand < 1:
        raise QuantizationError(f"km_expand must be 1 or more, not {km_expand}.")
    points = as_matrix(latents, name)
    check_clusters([clusters], points, None, name)
    return streamed_codebook(points, clusters, seed, km_expand * clusters, True, name)
