from __future__ import annotations

import pytest
import torch

from ddoq_plugin.quantization.matmul import full_precision


def reduced() -> bool:
    backend = torch.backends.cuda.matmul
    return backend.fp32_precision == "tf32" if hasattr(backend, "fp32_precision") else backend.allow_tf32


def test_products_are_full_precision_inside_and_as_before_outside():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        with pytest.raises(ValueError), full_precision():
            assert not reduced()
            raise ValueError
        assert reduced()
        assert torch.backends.cuda.matmul.allow_tf32  # the older way of asking still works
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    with full_precision():
        pass
    assert not reduced()
