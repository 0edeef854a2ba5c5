"""Several seeds of a student trained at once against one after the other: microseconds of a step and seed, and ratios.

    python benchmarks/students_together.py --students mlp lenet vit2_w64 --seeds 3 6 12

``vmap``: ``torch.func`` over stacked parameters, any student without batch norm and kernels of its own. ``stacked``:
the MLP written out for stacked parameters (``baddbmm``), the least there is to do. All take AdamW and a KL loss on
batches that are ready. The contenders alternate; medians. ``--device cuda`` runs it on a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from ddoq_plugin.evaluation.losses import kl_to_teacher
from ddoq_plugin.evaluation.runtime import Runtime, arranged, keep_freed_memory
from ddoq_plugin.evaluation.students import build_student

CLASSES, READY = 10, 8  # READY batches take turns


def main() -> None:
    """Print a line for each student."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", nargs="+", default=["mlp", "lenet", "vit2_w64"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[3, 6, 12])
    parser.add_argument("--size", type=int, default=16, help="side of the images in pixels")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.set_flush_denormal(True)
    if asked.device == "cpu":
        keep_freed_memory()
    print(f"torch {torch.__version__}, {asked.device}, {asked.threads} threads, batch {asked.batch}, {asked.size} px")
    for student in asked.students:
        runs = {"one": (one(student, asked), 1)}
        for count in asked.seeds:
            runs[f"vmap, {count}"] = (together(student, count, asked), count)
            if student == "mlp":
                runs[f"stacked, {count}"] = (stacked_mlp(count, asked), count)
        taken = measure(runs, asked)
        alone = statistics.median(taken["one"])
        print(f"{student}: one after the other {1e6 * alone:.0f} us a step and seed")
        for name in list(runs)[1:]:
            ratio = statistics.median(a / b for a, b in zip(taken["one"], taken[name], strict=True))
            print(f"  {name:12} {1e6 * statistics.median(taken[name]):6.0f} us, {ratio:.2f} times as fast", flush=True)


def one(student: str, asked: argparse.Namespace) -> Callable[[int], None]:
    """Return a function that takes steps with one student, as a training of ours does."""
    model = arranged(build_student(student, CLASSES, asked.size, seed=0).to(asked.device), Runtime()).train()
    return steps_of(model, list(model.parameters()), (), asked)


def together(student: str, count: int, asked: argparse.Namespace) -> Callable[[int], None]:
    """Return the same with ``count`` students under vmap."""
    models = [build_student(student, CLASSES, asked.size, seed=seed).to(asked.device).train() for seed in range(count)]
    parameters, buffers = stack_module_state(models)
    skeleton = models[0].to("meta")

    def output(own: dict, x: Tensor) -> Tensor:
        return functional_call(skeleton, (own, buffers), (x,))

    mapped = vmap(output, randomness="different")
    return steps_of(lambda x: mapped(parameters, x), list(parameters.values()), (count,), asked)


def stacked_mlp(count: int, asked: argparse.Namespace) -> Callable[[int], None]:
    """Return the same with ``count`` MLPs whose layers are one batched product each."""
    layers = []
    for layer in build_student("mlp", CLASSES, asked.size, seed=0).modules():
        if isinstance(layer, nn.Linear):
            weight = layer.weight.detach().t().repeat(count, 1, 1).to(asked.device)  # [in, out]: 1.3 times [out, in]
            bias = layer.bias.detach().repeat(count, 1, 1).to(asked.device)
            layers.append((weight.requires_grad_(), bias.requires_grad_()))

    def output(x: Tensor) -> Tensor:
        x = x.flatten(2)
        for number, (weight, bias) in enumerate(layers):
            x = torch.baddbmm(bias, x, weight)
            x = F.relu(x, inplace=True) if number < len(layers) - 1 else x
        return x

    return steps_of(output, [tensor for layer in layers for tensor in layer], (count,), asked)


def steps_of(
    output: Callable[[Tensor], Tensor], parameters: list[Tensor], seeds: tuple[int, ...], asked: argparse.Namespace
) -> Callable[[int], None]:
    """Return a function that takes a number of steps; ``seeds`` is the leading shape of a batch."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    images = torch.randn(READY, *seeds, asked.batch, 3, asked.size, asked.size, device=asked.device)
    labels = torch.randn(READY, *seeds, asked.batch, CLASSES, device=asked.device)

    def run(count: int) -> None:
        for step in range(count):
            outputs, wanted = output(images[step % READY]), labels[step % READY]
            losses = kl_to_teacher(outputs.view(-1, CLASSES), wanted.view(-1, CLASSES), 20.0)
            (losses.sum() / asked.batch).backward()  # seeds are apart: the sum over them gives each its own gradient
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if asked.device != "cpu":
            torch.cuda.synchronize()

    return run


def measure(runs: dict[str, tuple[Callable[[int], None], int]], asked: argparse.Namespace) -> dict[str, list[float]]:
    """Return seconds of a step and seed of each contender, which take turns; each has run once beforehand."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(asked.rounds + 1):
        for name, (run, seeds) in runs.items():
            steps = max(8, 96 // seeds)
            started = time.perf_counter()
            run(steps)
            if number:
                seconds[name].append((time.perf_counter() - started) / steps / seeds)
    return seconds


if __name__ == "__main__":
    main()
