from __future__ import annotations

import os

import pytest

os.environ.setdefault("RAY_worker_niceness", "0")


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
