"""Greedy facility location, side by side with submodlib on the same similarities, and its memory on a large class.

``python benchmarks/coresets.py``: N = 5,000, d = 2,048, 50 images; submodlib is compared where it is installed
(``pip install submodlib-py``). ``--large``: N = 20,000 in a process of its own, with its peak memory."""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
import torch
from ddoq_baselines.engine.greedy import Similarity, facility_location

WIDTH, BUDGET, REPEATS = 2048, 50, 5


def features(count: int) -> torch.Tensor:
    """Return points of 50 clusters, as features of a class are."""
    draws = torch.Generator().manual_seed(0)
    centres = torch.randn(50, WIDTH, generator=draws)
    return centres[torch.randint(50, (count,), generator=draws)] + torch.randn(count, WIDTH, generator=draws)


def compare(count: int = 5000) -> dict[str, object]:
    similarity = Similarity(features(count), "cosine").matrix
    facility_location(similarity[:64, :64].copy(), 64, 4)  # compiled
    ours, theirs, same = [], [], None
    for _ in range(REPEATS):
        started = time.perf_counter()
        chosen = facility_location(similarity, count, BUDGET)
        ours.append(time.perf_counter() - started)
        try:
            from submodlib import FacilityLocationFunction
        except ImportError:
            continue
        function = FacilityLocationFunction(
            n=count, mode="dense", sijs=similarity.astype(np.float32), separate_rep=False
        )
        options = {"stopIfZeroGain": False, "stopIfNegativeGain": False, "show_progress": False}
        started = time.perf_counter()
        other = function.maximize(budget=BUDGET, optimizer="LazyGreedy", **options)
        theirs.append(time.perf_counter() - started)
        same = chosen.tolist() == [place for place, _ in other]
    found: dict[str, object] = {"images": count, "ours_seconds": round(statistics.median(ours), 3)}
    if theirs:
        found |= {"submodlib_seconds": round(statistics.median(theirs), 3), "same_picks": same}
        found["ratio"] = round(statistics.median(theirs) / statistics.median(ours), 2)
    return found


def large(count: int) -> dict[str, object]:
    points = features(count)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    similarity = Similarity(points, "cosine")
    facility_location(similarity.rows, count, BUDGET)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    whole = 8 * count**2 / 2**30
    return {"images": count, "seconds": round(seconds, 1), "gib_more": round((after - before) / 2**20, 2),
            "gib_of_a_whole_matrix": round(whole, 1)}  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--alone", type=int)
    asked = parser.parse_args()
    if asked.alone:
        print(json.dumps(large(asked.alone)))
    elif asked.large:
        subprocess.run([sys.executable, __file__, "--alone", "20000"], check=True)
    else:
        print(json.dumps(compare()))
