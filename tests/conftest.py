"""Options of the test run, and a sweep small enough to run in seconds: few digits, no diffusion, forty steps."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "golden"))  # in importlib mode no folder of tests is on the path
os.environ.setdefault("RAY_worker_niceness", "0")
if "PYTEST_XDIST_WORKER" in os.environ:  # tests run side by side: more threads each would only wait for each other
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")
    parser.addoption("--network", action="store_true", help="also run the tests that need the internet")


def pytest_collection_modifyitems(config, items):
    import torch

    skips = {
        "slow": None if config.getoption("--slow") else "takes minutes: run with --slow",
        "network": None if config.getoption("--network") else "needs the internet: run with --network",
        "gpu": None if torch.cuda.is_available() else "needs a CUDA device",
    }
    for item in items:
        for name, reason in skips.items():
            if reason is not None and item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=reason))


PROTOCOL = """\
name: forty_steps
source: made for the tests, says nothing of accuracy
label_mode: {mode}
loss: {loss}
optimizer: {{name: adamw, lr: 0.005, weight_decay: 0.01}}
steps: 40
batch_size: 20
mixing: {{name: cutmix, probability: 0.5}}
"""
HARD = PROTOCOL.format(mode="hard", loss="{name: cross_entropy}")
SOFT = PROTOCOL.format(mode="soft_stored", loss="{name: kl, temperature: 20}")

SWEEP = """\
name: small
dataset: {{name: digits, limit_per_class: 12}}
prior: pixel
methods:
  - {{name: ddoq, weighting: [uniform, sqrt], strength: 0.0}}
  - {{name: random}}
ipc: [1, 3]
clusters: [ipc, 5]
students: [mlp]
teacher: {{student: mlp, protocol: {folder}/hard.yaml}}
protocol: {folder}/soft.yaml
seeds: 2
output: {folder}/run
"""


@pytest.fixture
def small_sweep(tmp_path):
    """Return the path of the sweep's YAML; its folder is ``tmp_path / "run"``."""
    (tmp_path / "hard.yaml").write_text(HARD)
    (tmp_path / "soft.yaml").write_text(SOFT)
    path = tmp_path / "small.yaml"
    path.write_text(SWEEP.format(folder=tmp_path))
    return path
