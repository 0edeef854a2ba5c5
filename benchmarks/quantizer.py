"""Time the quantiser beside its peers, in one process on one thread, and print tables of ratios.

    python benchmarks/quantizer.py                                  # a mixture with a decaying spectrum
    python benchmarks/quantizer.py --npz PACK --encoder WEIGHTS     # latents of the images of one class

Every time stands beside a distortion: a fast codebook that is worse is no answer. Distortions are W2^2 with Voronoi
masses, computed alike for all, as a ratio to scikit-learn's KMeans with one initialisation.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy is imported

import argparse
import platform
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import quantizer_peers as peers
import torch
from quantizer_latents import mixture, real_latents
from quantizer_timing import Measured, interleaved
from torch import Tensor

from ddoq_plugin.quantization import d4m_codebook, quantize, quantize_many, w2_squared
from ddoq_plugin.quantization.w2 import squared_distances, transport_cost

SWEEP_CLUSTERS, SWEEP_SEEDS = (1, 10, 20, 50, 100, 200), range(5)


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    print(f"{processor()}, one thread; torch {torch.__version__}, NumPy {np.__version__}\n")
    warm_up()
    for section in options.sections:
        if section == "growth":
            growth(options)
            continue
        for latents in data(options):
            print(f"## {section}: N = {len(latents)}, d = {latents.shape[1]}\n")
            SECTIONS[section](latents, options)
            print(flush=True)


def warm_up() -> None:
    """Load compiled kernels and the peers' libraries, so that no round pays for that."""
    small = mixture(512, 512)
    for masses in ("voronoi", "balanced"):
        quantize(small, 10, masses=masses)
    w2_squared(small, small[:10], torch.ones(10))
    for peer in (peers.scikit_learn, peers.scikit_learn_minibatch, peers.d4m_partial_fit):
        peer(small, 10, 0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--npz", type=Path, help="image pack with x_train and y_train")
    parser.add_argument("--encoder", type=Path, help="state dict of a taesd-like encoder (with --npz)")
    parser.add_argument("--class-index", type=int, default=0)
    parser.add_argument("--image-sizes", type=int, nargs="+", default=[88, 176], help="pixels; d = 32 (size / 8)^2")
    parser.add_argument("--cache", type=Path, help="folder that keeps encoded latents")
    parser.add_argument("--samples", type=int, default=1300, help="of the mixture")
    parser.add_argument("--dimensions", type=int, nargs="+", default=[4096, 16384], help="of the mixture")
    parser.add_argument("--clusters", type=int, nargs="+", default=[10, 50, 100, 200])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sections", nargs="+", default=[*SECTIONS, "growth"], choices=[*SECTIONS, "growth"])
    options = parser.parse_args()
    if (options.npz is None) != (options.encoder is None):
        parser.error("--npz and --encoder go together")
    return options


def data(options: argparse.Namespace):
    """Yield the latents of each size that was asked for."""
    if options.npz is None:
        for dimensions in options.dimensions:
            yield mixture(options.samples, dimensions)
    else:
        for size in options.image_sizes:
            yield real_latents(options.npz, options.encoder, options.class_index, size, options.cache)


def processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def syrk(latents: Tensor) -> Callable[[int], object]:
    """One symmetric product of the size of the class: what the Gram domain cannot do without."""
    rows = latents.numpy()
    return lambda seed: rows @ rows.T


def show(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table."""
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
    for row in rows:
        print("| " + " | ".join(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row) + " |")
    print(flush=True)


def compare(latents: Tensor, contenders: dict[str, Callable[[int], Tensor]], rounds: int) -> dict[str, Measured]:
    """Run the contenders and print, for each, its time, how much faster the first one is, and the distortion ratio."""
    measured = interleaved(contenders, rounds)
    first, reference = (measured[name] for name in (next(iter(contenders)), "scikit-learn KMeans, n_init 1"))
    base = mean_distortion(latents, reference)
    rows = []
    for name, one in measured.items():
        distortion = mean_distortion(latents, one) / base
        rows.append((name, f"{one.milliseconds:.0f}", f"{one.ratio(first):.1f}x", f"{distortion:.4f}"))
    show(("", "ms", "time against ours", "distortion"), rows)
    return measured


def mean_distortion(latents: Tensor, measured: Measured) -> float:
    return statistics.mean(w2_squared(latents, codes) for codes in measured.results)


def against_peers(latents: Tensor, options: argparse.Namespace) -> None:
    for clusters in options.clusters:
        if clusters > len(latents) // 2:
            continue
        print(f"K = {clusters}")
        contenders = {
            "ours": lambda seed, k=clusters: quantize(latents, k, seed=seed).centroids,
            "ours, 1 restart": lambda seed, k=clusters: quantize(latents, k, seed=seed, restarts=1).centroids,
            "ours, balanced": lambda seed, k=clusters: quantize(latents, k, seed=seed, masses="balanced").centroids,
            "ours, direct Lloyd": lambda seed, k=clusters: quantize(latents, k, seed=seed, method="lloyd").centroids,
            "scikit-learn KMeans, n_init 1": lambda seed, k=clusters: peers.scikit_learn(latents, k, seed),
            "scikit-learn MiniBatchKMeans": lambda seed, k=clusters: peers.scikit_learn_minibatch(latents, k, seed),
            "plain torch Lloyd, 25 iterations": lambda seed, k=clusters: peers.torch_lloyd(latents, k, seed),
        }
        if has_faiss():
            contenders["faiss, 25 iterations"] = lambda seed, k=clusters: peers.faiss_lloyd(latents, k, seed)
        measured = compare(latents, contenders, options.rounds)
        product = interleaved({"syrk": syrk(latents), "ours": contenders["ours"]}, options.rounds)
        times = product["ours"].ratio(product["syrk"])
        balanced = measured["ours, balanced"].ratio(measured["ours"])
        print(f"ours takes {times:.2f} syrk; balanced takes {balanced:.2f} times the Voronoi codebook\n")


def ten_restarts(latents: Tensor, options: argparse.Namespace) -> None:
    contenders = {
        "ours, 10 restarts": lambda seed: quantize(latents, 100, seed=seed, restarts=10).centroids,
        "scikit-learn KMeans, n_init 1": lambda seed: peers.scikit_learn(latents, 100, seed),
        "scikit-learn KMeans, n_init 10": lambda seed: peers.scikit_learn(latents, 100, seed, restarts=10),
    }
    compare(latents, contenders, max(1, options.rounds // 2))


def one_pass(latents: Tensor, options: argparse.Namespace) -> None:
    for clusters in options.clusters:
        print(f"K = {clusters}")
        contenders = {
            "ours, minibatch": lambda seed, k=clusters: quantize(latents, k, seed=seed, method="minibatch").centroids,
            "ours, D4M pattern, km_expand 1": lambda seed, k=clusters: d4m_codebook(latents, k, seed=seed).centroids,
            "D4M partial_fit, km_expand 1": lambda seed, k=clusters: peers.d4m_partial_fit(latents, k, seed),
            "scikit-learn KMeans, n_init 1": lambda seed, k=clusters: peers.scikit_learn(latents, k, seed),
        }
        if 10 * clusters <= len(latents):
            contenders["D4M partial_fit, km_expand 10"] = lambda seed, k=clusters: peers.d4m_partial_fit(
                latents, k, seed, 10
            )
        compare(latents, contenders, options.rounds)


def sweep(latents: Tensor, options: argparse.Namespace) -> None:
    contenders = {"syrk": syrk(latents), "sweep": lambda seed: quantize_many(latents, SWEEP_CLUSTERS, SWEEP_SEEDS)}
    measured = interleaved(contenders, options.rounds)
    ratio = measured["sweep"].ratio(measured["syrk"])
    print(
        f"K in {SWEEP_CLUSTERS} x {len(SWEEP_SEEDS)} seeds: {measured['sweep'].milliseconds:.0f} ms, {ratio:.2f} syrk\n"
    )


def transport(latents: Tensor, options: argparse.Namespace) -> None:
    """W2^2 of equal masses, as a ratio to the Voronoi codebook's; and exact W2 against an assignment problem."""
    rows = []
    for clusters in options.clusters:
        if clusters > len(latents) // 2:
            continue
        equal = torch.ones(clusters)
        book = quantize(latents, clusters)
        d4m = peers.d4m_partial_fit(latents, clusters, 0)
        values = (
            quantize(latents, clusters, masses="balanced").distortion,
            w2_squared(latents, book.centroids, equal),
            w2_squared(latents, d4m),
            w2_squared(latents, d4m, equal),
        )
        rows.append((clusters, *(f"{value / book.distortion:.4f}" for value in values)))
    show(("K", "balanced", "Lloyd, equal masses", "D4M pass, Voronoi", "D4M pass, equal masses"), rows)
    clusters = 100
    codes = quantize(latents, clusters).centroids
    reach = torch.cdist(latents, codes).square().to(torch.float64).numpy()
    whole = len(latents) // clusters * clusters  # an assignment needs as many columns as rows
    contenders = {
        "transport alone": lambda seed: transport_cost(reach[:whole], np.ones(whole), np.ones(clusters)),
        "w2_squared, distances included": lambda seed: w2_squared(latents[:whole], codes, torch.ones(clusters)),
        "linear_sum_assignment on replicated columns": lambda seed: assignment_cost(reach[:whole]),
        "the same, distances included": lambda seed: assignment_cost(
            squared_distances(latents[:whole], codes).to(torch.float64).numpy()
        ),
    }
    measured = interleaved(contenders, options.rounds)
    rows = [(name, f"{one.milliseconds:.1f}", one.results[0]) for name, one in measured.items()]
    show(("exact W2, K = 100", "ms", "W2^2"), rows)
    alone, whole_of_ours, assigned, whole_of_theirs = measured.values()
    print(
        f"assignment against ours: {assigned.ratio(alone):.1f}x, "
        f"distances included on both sides {whole_of_theirs.ratio(whole_of_ours):.1f}x\n"
    )


def assignment_cost(reach: np.ndarray) -> float:
    from scipy.optimize import linear_sum_assignment

    columns = np.repeat(np.arange(reach.shape[1]), len(reach) // reach.shape[1])
    rows, picked = linear_sum_assignment(reach[:, columns])
    return float(reach[rows, columns[picked]].mean())


def growth(options: argparse.Namespace) -> None:
    """How time grows with N and with d, on the mixture: which method the cost model takes, and what the other costs."""
    print("## growth: mixture, K = 100\n")
    rows = []
    for samples, dimensions in (
        (1300, 1024),
        (1300, 4096),
        (1300, 16384),
        (4000, 1024),
        (13_000, 1024),
        (130_000, 1024),
    ):
        latents = mixture(samples, dimensions)
        methods = ["auto", "gram", "lloyd"] if samples <= 4000 else ["auto", "lloyd"]
        contenders = {
            name: lambda seed, m=name, x=latents: quantize(x, 100, seed=seed, method=m).centroids for name in methods
        }
        contenders["scikit-learn"] = lambda seed, x=latents: peers.scikit_learn(x, 100, seed)
        measured = interleaved(contenders, 1 if samples > 4000 else 3)
        base = mean_distortion(latents, measured["scikit-learn"])
        for name, one in measured.items():
            quality = mean_distortion(latents, one) / base
            rows.append((samples, dimensions, name, f"{one.milliseconds:.0f}", f"{quality:.4f}"))
    show(("N", "d", "", "ms", "distortion"), rows)


def has_faiss() -> bool:
    try:
        import faiss
    except ImportError:
        return False
    faiss.omp_set_num_threads(1)
    return True


SECTIONS = {
    "peers": against_peers,
    "restarts": ten_restarts,
    "one_pass": one_pass,
    "sweep": sweep,
    "transport": transport,
}

if __name__ == "__main__":
    main()
