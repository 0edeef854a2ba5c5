from __future__ import annotations

import numpy as np
import pytest
import torch

from ddoq_plugin.quantization import quantize, w2_squared


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["gram", "lloyd", "minibatch"])
def test_cuda_agrees_with_the_cpu(method):
    points = torch.from_numpy(np.random.default_rng(0).standard_normal((500, 300))).float()
    on_cpu = quantize(points, 20, method=method)
    on_cuda = quantize(points.cuda(), 20, method=method)
    assert on_cuda.centroids.is_cuda
    assert on_cuda.distortion == pytest.approx(on_cpu.distortion, rel=0.02)
    assert on_cuda.distortion == pytest.approx(w2_squared(points.cuda(), on_cuda.centroids), rel=1e-5)
    again = quantize(points.cuda(), 20, method=method)
    assert torch.equal(on_cuda.centroids, again.centroids)
