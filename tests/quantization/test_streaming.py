from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import MiniBatchKMeans

from ddoq_plugin.errors import QuantizationError
from ddoq_plugin.quantization import StreamingQuantizer, d4m_codebook, quantize


def heaps(count, dimensions=70, seed=0):
    random = np.random.default_rng(seed)
    centres = 2 * random.standard_normal((12, dimensions))
    return torch.from_numpy(
        random.standard_normal((count, dimensions)) + centres[random.integers(0, 12, count)]
    ).float()


def test_a_centroid_is_the_mean_of_all_it_was_given():
    points = heaps(400)
    stream = StreamingQuantizer(5, batch_size=100)
    stream.update(points[:100])
    first = quantize(points[:100], 5)
    torch.testing.assert_close(stream.centroids, first.centroids)
    given = [points[:100][first.assignment == k] for k in range(5)]
    for start in (100, 200, 300):
        batch = points[start : start + 100]
        nearest = torch.cdist(batch, stream.centroids).argmin(dim=1)
        given = [torch.cat([old, batch[nearest == k]]) for k, old in enumerate(given)]
        stream.update(batch)
        torch.testing.assert_close(
            stream.centroids, torch.stack([part.mean(dim=0) for part in given]), atol=1e-4, rtol=1e-4
        )


def test_how_the_stream_is_cut_changes_nothing():
    points = heaps(330)
    whole, parts = (StreamingQuantizer(6, batch_size=64, seed=3) for _ in range(2))
    whole.update(points)
    for part in points.split([1, 62, 2, 130, 100, 35]):
        parts.update(part)
    whole.finish()
    parts.finish()
    assert torch.equal(whole.centroids, parts.centroids)


def test_the_left_over_is_fitted():
    points = heaps(150)
    stream = StreamingQuantizer(4, batch_size=100)
    stream.update(points)
    before = stream.centroids.clone()
    stream.finish()
    assert not torch.equal(stream.centroids, before)


def test_a_class_smaller_than_one_batch_is_fitted():
    points = heaps(30)
    stream = StreamingQuantizer(4, batch_size=1000)
    stream.update(points)
    with pytest.raises(QuantizationError, match="call finish"):
        stream.centroids  # noqa: B018
    stream.finish()
    assert stream.codebook(points).distortion == pytest.approx(quantize(points, 4).distortion, rel=1e-5)


def test_what_is_held_is_bounded_by_a_batch():
    stream = StreamingQuantizer(3, batch_size=50)
    for part in heaps(1000).split(30):
        stream.update(part)
        assert sum(map(len, stream._waiting)) < 50


def test_masses_are_those_of_the_final_cells():
    points = heaps(900)
    book = quantize(points, 12, method="minibatch", batch_size=60)
    nearest = torch.cdist(points, book.centroids).argmin(dim=1)
    assert torch.equal(book.assignment, nearest)
    torch.testing.assert_close(book.masses, torch.bincount(nearest, minlength=12).double() / 900)


def test_errors_name_the_class():
    stream = StreamingQuantizer(5, name="tench")
    with pytest.raises(QuantizationError, match="No latents of class 'tench' came"):
        stream.finish()
    stream.update(heaps(3))
    with pytest.raises(QuantizationError, match="5 clusters .* class 'tench' has only 3"):
        stream.finish()
    with pytest.raises(QuantizationError, match="km_expand must be 1 or more"):
        d4m_codebook(heaps(10), 2, km_expand=0)


@pytest.mark.parametrize("km_expand", [1, 10])
def test_d4m_pattern_behaves_as_scikit_learns_partial_fit(km_expand):
    # statistically the same algorithm: the mean distortion over seeds agrees
    ours, theirs = [], []
    for seed in range(12):
        points = heaps(400, seed=seed)
        ours.append(d4m_codebook(points, 10, km_expand=km_expand, seed=seed).distortion)
        order = np.random.default_rng(seed).permutation(400)
        model = MiniBatchKMeans(10, random_state=seed, batch_size=10 * km_expand, n_init="auto")
        for start in range(0, 400, 10 * km_expand):
            model.partial_fit(points.numpy()[order[start : start + 10 * km_expand]])
        theirs.append(float((torch.cdist(points, torch.from_numpy(model.cluster_centers_)).amin(dim=1) ** 2).mean()))
    spread = np.std(ours) + np.std(theirs)
    assert abs(np.mean(ours) - np.mean(theirs)) < 2 * spread / 12**0.5


def test_d4m_pattern_where_the_published_code_fails():
    book = d4m_codebook(heaps(130), 20, km_expand=10)  # a batch of 200 that never fills
    assert book.masses.min() > 0 and len(book.masses) == 20


def test_one_pass_is_reproducible_and_shuffled():
    points = heaps(600)
    first, second, other = (d4m_codebook(points, 8, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.centroids, second.centroids)
    assert not torch.equal(first.centroids, other.centroids)


def test_starved_centroids_are_put_on_samples():
    # one far sample makes a centroid that gets no more; after 10 K samples it is placed anew
    points = heaps(600)
    points[0] += 1e4
    stream = StreamingQuantizer(4, batch_size=20, published=True)
    stream.update(points)
    assert stream.centroids.norm(dim=1).max() < 1e3


def test_d4m_is_a_method_of_quantize():
    points = heaps(300)
    for km_expand, batch_size in ((1, None), (1, 8), (3, 24)):
        book = quantize(points, 8, seed=2, method="d4m", batch_size=batch_size)
        assert torch.equal(book.centroids, d4m_codebook(points, 8, seed=2, km_expand=km_expand).centroids)
