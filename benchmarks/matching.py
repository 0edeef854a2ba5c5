"""Methods that learn their images, side by side with their usual formulation: time and memory as ratios.

``python benchmarks/matching.py dm``: one iteration of DM over ten classes, against a loop over the classes as published
code has it. ``unroll``: MTT's gradient through N steps, against the whole graph, in a process each. ``experts``: eight
experts in one call of ``vmap``, against one after the other."""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from ddoq_baselines.dm import DM
from ddoq_baselines.engine.experts import loss_gradient
from ddoq_baselines.engine.losses import trajectory_distance
from ddoq_baselines.engine.networks import FlatNetwork
from ddoq_baselines.engine.unroll import unroll
from matmul_rate import matmul_rate
from torch import Tensor, nn
from torch.nn import functional as F

from ddoq_plugin.data.base import ArraySplit, ImageData
from ddoq_plugin.distiller import DistillContext
from ddoq_plugin.evaluation import build_student
from ddoq_plugin.evaluation.dsa import augment, draw
from ddoq_plugin.evaluation.dsa_strategy import STRATEGY
from ddoq_plugin.evaluation.runtime import keep_freed_memory
from ddoq_plugin.planning.model_facts import count_flops
from ddoq_plugin.seeding import generator

CLASSES, IPC, N, IMAGES = 10, 10, 30, 100
CPU = torch.device("cpu")


def random_data(size: int, a_class: int = 300) -> ImageData:
    """Return noise of ten classes: the time does not depend on what the images show."""
    labels = torch.arange(CLASSES).repeat_interleave(a_class)
    images = torch.randint(0, 256, (len(labels), 3, size, size), generator=generator("benchmark images")).byte()
    split = ArraySplit(images, labels)
    return ImageData("noise", tuple(map(str, range(CLASSES))), size, split, split, split, identity="noise")


def plain_network(width: int, size: int) -> tuple[nn.Module, nn.Module]:
    """Return the ConvNet of the published code from PyTorch's own layers: features, and the last layer."""
    layers: list[nn.Module] = []
    for channels in (3, width, width):
        block = [nn.Conv2d(channels, width, 3, padding=1), nn.GroupNorm(width, width), nn.ReLU(), nn.AvgPool2d(2)]
        layers += block
    features = nn.Sequential(*layers, nn.Flatten())
    return features, nn.Linear(width * (size // 8) ** 2, CLASSES)


def dm(size: int, width: int, batch: int, rounds: int) -> dict[str, float]:
    """Return the seconds of one iteration of both, medians, and the share of the rate of matrix products."""
    data = random_data(size)
    learning = DM(network=f"convnet3_w{width}" if width != 128 else "convnet3", batch=batch).begin(
        DistillContext(data), IPC, 0
    )
    images = data.train.images().float() / 255
    made = torch.rand(CLASSES * IPC, 3, size, size, requires_grad=True)
    optimiser = torch.optim.SGD([made], lr=1.0, momentum=0.5)
    draws = generator("benchmark draws")

    def reference() -> None:
        features, _ = plain_network(width, size)
        features.requires_grad_(False)
        loss = torch.zeros(())
        for c in range(CLASSES):
            rows = torch.randperm(300, generator=draws)[:batch] + 300 * c
            real, own = images[rows], made[c * IPC : (c + 1) * IPC]
            drawn = draw(STRATEGY, 1, size, draws)
            target = features(augment(real, drawn)).detach().mean(0)
            loss = loss + (target - features(augment(own, drawn)).mean(0)).square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    number = iter(range(10**9))
    ours, theirs = side_by_side(lambda: learning.step(next(number)), reference, rounds)
    features, _ = plain_network(width, size)
    flops = (
        count_flops(features, torch.zeros(1, 3, size, size)) * CLASSES * (batch + 2 * IPC)
    )  # made: also to the pixels
    return {
        "ours": ours,
        "loop": theirs,
        "times": theirs / ours,
        "share": flops / ours / matmul_rate(CPU, torch.float32),
    }


def side_by_side(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Return median seconds of both, taken in turns after a warm-up."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 3):
        for call, kept in zip((ours, theirs), times, strict=True):
            begun = time.perf_counter()
            call()
            if turn >= 3:
                kept.append(time.perf_counter() - begun)
    return statistics.median(times[0]), statistics.median(times[1])


def trajectory(size: int, width: int) -> dict[str, object]:
    """Return start, target, images, labels and rate of an outer step of MTT, and its inner loss."""
    network = FlatNetwork(build_student(f"convnet3_w{width}", CLASSES, size, seed=1))
    start = network.vector()
    target = start + 0.01 * torch.randn(len(start), generator=generator("benchmark target"))
    images = torch.randn(IMAGES, 3, size, size, generator=generator("benchmark made"))
    labels = torch.arange(CLASSES).repeat_interleave(IMAGES // CLASSES)
    drawn = [draw(STRATEGY, IMAGES, size, generator("benchmark draw", step)) for step in range(N)]

    def loss(theta: Tensor, own: Tensor, targets: Tensor, step: int) -> Tensor:
        return F.cross_entropy(network.logits(theta, augment(own, drawn[step])), targets)

    return {
        "loss": loss,
        "start": start,
        "target": target,
        "images": images,
        "labels": labels,
        "rate": torch.tensor(0.02),
    }


def whole_graph(loss, start, target, images, labels, rate) -> Tensor:
    """Return the gradient of the images as MTT's code gets it: all steps in one graph."""
    images = images.requires_grad_()
    theta = start.requires_grad_()
    for step in range(N):
        (gradient,) = torch.autograd.grad(loss(theta, images, labels, step), theta, create_graph=True)
        theta = theta - rate * gradient
    return torch.autograd.grad(trajectory_distance(theta, start.detach(), target), images)[0]


def one_unroll(which: str, size: int, width: int, rounds: int) -> dict[str, float]:
    """Return seconds, peak memory beyond what was there before, in MB, and the gradient's norm."""
    keep_freed_memory()
    given = trajectory(size, width)
    rows = [torch.arange(IMAGES)] * N
    unroll(**given, batches=rows[:1])  # libraries are loaded and kernels compiled
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, norm = [], 0.0
    for _ in range(rounds):
        begun = time.perf_counter()
        made = unroll(**given, batches=rows).images if which == "ours" else whole_graph(**given)
        seconds.append(time.perf_counter() - begun)
        norm = float(made.norm())
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"seconds": statistics.median(seconds), "peak_mb": peak, "norm": norm}


def unrolls(size: int, width: int, rounds: int) -> dict[str, float]:
    """Run both in a process of its own and return their ratios."""
    found = {}
    for which in ("ours", "whole"):
        command = [
            sys.executable,
            __file__,
            "one",
            which,
            str(size),
            str(width),
            str(rounds),
            str(torch.get_num_threads()),
        ]
        found[which] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    ours, whole = found["ours"], found["whole"]
    assert abs(ours["norm"] / whole["norm"] - 1) < 1e-3, "the gradients differ"
    return {
        "ours": ours["seconds"], "whole": whole["seconds"], "time": ours["seconds"] / whole["seconds"],
        "ours_mb": ours["peak_mb"], "whole_mb": whole["peak_mb"], "memory": ours["peak_mb"] / whole["peak_mb"],
    }  # fmt: skip


def experts(size: int, width: int, count: int, batch: int, rounds: int) -> dict[str, float]:
    """Return the seconds of a step of all experts, one after the other and in one call."""
    network = FlatNetwork(build_student(f"convnet3_w{width}", CLASSES, size, seed=1))
    vectors = torch.stack([network.vector()] * count)
    images = torch.randn(count, batch, 3, size, size, generator=generator("benchmark batches"))
    labels = torch.randint(CLASSES, (count, batch), generator=generator("benchmark labels"))

    def one_by_one() -> None:
        for place in range(count):
            own = images[place].contiguous(memory_format=torch.channels_last)
            loss_gradient(network, vectors[place], own, labels[place])

    def loss(vector: Tensor, own: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(network.logits(vector, own), targets)

    together = torch.func.vmap(torch.func.grad(loss))
    ours, theirs = side_by_side(one_by_one, lambda: together(vectors, images, labels), rounds)
    return {"one_by_one": ours, "vmap": theirs, "times": theirs / ours}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("dm", "unroll", "experts", "one"))
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64, help="real images of a class, or of an expert's step")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args()
    if asked.what == "one":
        which, size, width, rounds, threads = asked.rest
        torch.set_num_threads(int(threads))
        print(json.dumps(one_unroll(which, int(size), int(width), int(rounds))))
        return
    torch.set_num_threads(asked.threads)
    keep_freed_memory()
    if asked.what == "dm":
        made = dm(asked.size, asked.width, asked.batch, asked.rounds)
    elif asked.what == "unroll":
        made = unrolls(asked.size, asked.width, max(1, asked.rounds // 5))
    else:
        made = experts(asked.size, asked.width, 8, asked.batch, asked.rounds)
    print(f"{asked.what} at {asked.size} px, width {asked.width}, {asked.threads} threads:")
    print("  ".join(f"{name} {value:.4g}" for name, value in made.items()))


if __name__ == "__main__":
    main()
