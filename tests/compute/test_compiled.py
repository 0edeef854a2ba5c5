from __future__ import annotations

import os
import subprocess
import sys

import numpy as np

from ddoq_plugin.compute import compiled as module

SCRIPT = """
import sys
import ddoq_plugin.quantization as package
package.effective_sample_size, package.quantize
print([name for name in ("numba", "ot", "sklearn", "scipy") if name in sys.modules], end=" ")
import numpy as np
from ddoq_plugin.quantization.gram_kernels import cost
assert cost(np.ones(3), np.ones(3), np.ones(1), np.ones(1)) == 2.0
print(sum(cost.stats.cache_hits.values()), sum(cost.stats.cache_misses.values()))
"""


def test_the_package_loads_numba_late_and_a_second_process_finds_the_compiled_kernel(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    hits = []
    for _ in range(2):
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
        )
        hits.append(run.stdout.split())
    assert hits == [["[]", "0", "1"], ["[]", "1", "0"]]


def test_without_a_place_for_the_cache_it_compiles_in_memory(monkeypatch):
    real = module.njit

    def nowhere(**options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return real(**options)

    monkeypatch.setattr(module, "njit", nowhere)
    assert module.compiled(lambda values: values.sum())(np.ones(4)) == 4.0
