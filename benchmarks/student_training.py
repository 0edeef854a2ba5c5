"""Student training side by side: DD-Ranking's loop and evaluator against ours, and number formats against float32.

    python benchmarks/student_training.py epoch --students convnet3 resnet18 mlp vit_tiny --ipc 10 50
    python benchmarks/student_training.py lrs --data npz:cifar10.npz
    python benchmarks/student_training.py equivalence --data npz:cifar10.npz --students convnet3 --seeds 0 20

``epoch``: DD-Ranking's ``train_one_epoch`` with its DataLoader (4 and 0 workers) and DSA, against ours with one affine
cut and mirror an image, and what share of the device's rate in large products ours reaches. ``lrs``: its evaluator
against ours, the same trainings. ``equivalence``: the accuracy of ``execution.precision: bfloat16`` minus that of
``float32``, paired by seed, on images that are neither in the trained set nor in the test split, with its 95 %
confidence interval. In each, the contenders alternate, and medians and ratios within a round are given. ``--device
cuda`` runs all of it on a GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import statistics
import tempfile

import torch
from matmul_rate import matmul_rate
from student_peers import Elsewhere, first_images, host_epoch, host_is_installed, host_score, plain_epoch

from ddoq_plugin.data import load_data
from ddoq_plugin.data.base import ArraySplit, ImageData, rows_by_class
from ddoq_plugin.evaluation import (
    Protocol,
    Teacher,
    TrainingSet,
    build_student,
    load_protocol,
    train_student,
    train_teacher,
)
from ddoq_plugin.seeding import numpy_rng

CLASSES, BATCH = 10, 100


def main() -> None:
    """Run the part that is asked for and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["epoch", "lrs", "equivalence"])
    parser.add_argument("--students", nargs="+", default=["convnet3"])
    parser.add_argument("--ipc", nargs="+", type=int, default=[10])
    parser.add_argument("--size", type=int, default=32, help="epoch: side of the images in pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="epoch: our loop compiled, too")
    parser.add_argument("--data", default="digits", help="lrs, equivalence: a dataset of ours")
    parser.add_argument("--protocol", default="soft_online_short", help="equivalence: soft_online or hard")
    parser.add_argument("--steps", type=int, help="equivalence: steps of a training (default: the protocol's)")
    parser.add_argument("--batch", type=int, help="equivalence: batch size (default: the protocol's)")
    parser.add_argument("--seeds", nargs=2, type=int, default=[0, 10], help="equivalence: first and last + 1")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    device = torch.cuda.get_device_name() if asked.device.startswith("cuda") else platform.processor() or "CPU"
    print(f"torch {torch.__version__}, {device}, {asked.threads} threads", flush=True)
    {"epoch": epochs, "lrs": whole_score, "equivalence": equivalence}[asked.part](asked)


def epochs(asked: argparse.Namespace) -> None:
    """Milliseconds of one epoch."""
    host = host_is_installed()
    peer = host_epoch if host else plain_epoch
    name = "DD-Ranking" if host else "plain loop (DD-Ranking is not installed)"
    forms = {precision: {"precision": precision} for precision in ("float32", "bfloat16")}
    if asked.compile:
        forms |= {f"{key} compiled": {**value, "compile": True} for key, value in forms.items()}
    rate = matmul_rate(torch.device(asked.device), torch.bfloat16)
    for student in asked.students:
        for ipc in asked.ipc:
            data = noise(ipc, asked.size)
            images, labels = data.train.images().float() / 255, data.train.labels
            batch = min(BATCH, len(labels))
            peers = {
                f"{name}, {workers} workers": Elsewhere(peer, student, images, labels, batch, workers, asked.device)
                for workers in (4, 0)
            }
            runs = dict(peers)
            runs |= {f"ours, {form}": _our_epoch(student, data, batch, forms[form], asked.device) for form in forms}
            seconds = _alternate(runs, asked.rounds)
            for each in peers.values():
                each.close()
            print(f"\n{student}, IPC {ipc} ({len(labels)} images of {asked.size} px, batch {batch})")
            _print_table(seconds, f"{name}, 4 workers", f"{name}, 0 workers")
            speed = len(labels) * flops_of_image(student, asked.size) / statistics.median(seconds["ours, bfloat16"])
            print(
                f"ours, bfloat16: {speed / 1e9:.0f} GFLOP/s, {speed / rate:.1%} of {rate / 1e9:.0f} in large products"
            )


def _our_epoch(student: str, data: ImageData, batch: int, execution: dict, device: str):
    steps_an_epoch = len(data.train) // batch
    steps = 200 if device.startswith("cuda") else 4  # one step alone would be mostly set-up that a training has once
    repeats = max(1, steps // steps_an_epoch)
    protocol = Protocol(
        name="benchmark",
        source="made for this benchmark",
        label_mode="hard",
        loss={"name": "cross_entropy"},
        optimizer={"name": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4},
        schedule={"name": "constant"},
        steps=repeats * steps_an_epoch,
        batch_size=batch,
        augmentation={"crop": "resized", "scale": (0.5, 1.0), "flip": 0.5},
        execution=execution,
    )

    def run() -> float:
        result = train_student(TrainingSet.from_split(data.train), student, protocol, data, seed=0, device=device)
        return steps_an_epoch * batch / result.train_images_per_second

    return run


def flops_of_image(student: str, size: int) -> float:
    """Return the floating-point operations of a step for one image: products and convolutions, both ways."""
    from torch.utils.flop_counter import FlopCounterMode

    model = build_student(student, CLASSES, size, seed=0)
    with FlopCounterMode(display=False) as counter:
        model(torch.rand(2, 3, size, size)).sum().backward()
    return counter.get_total_flops() / 2


def whole_score(asked: argparse.Namespace) -> None:
    """Seconds of one LRS, the teacher and the full-data accuracy given."""
    from ddoq_plugin.hosts import host_settings, own_scores

    if not host_is_installed():
        raise SystemExit("DD-Ranking is not installed; there is no evaluator to compare with")
    data, ipc = load_data(asked.data), asked.ipc[0]
    settings, made = host_settings("short", full_data_accuracy=50.0), first_images(data, ipc)
    with tempfile.TemporaryDirectory() as folder:
        forms = {"ours, float32": _in_float32(settings.protocol, folder), "ours, auto": settings.protocol}

        def ours(protocol: str) -> dict:
            changed = settings.model_copy(update={"protocol": protocol})
            rows = own_scores(
                {"first": made}, data, metrics=["lrs"], student="convnet3", settings=changed, device=asked.device,
                work_folder=folder, progress=False,
            )  # fmt: skip
            return rows.iloc[0].to_dict()

        host = Elsewhere(host_score, asked.data, ipc, settings, folder, asked.device)
        runs = {"DD-Ranking's evaluator": host} | {
            name: (lambda protocol=protocol: ours(protocol)) for name, protocol in forms.items()
        }
        rows: dict[str, dict] = {}

        def seconds_of(name: str) -> float:
            rows[name] = runs[name]()
            return rows[name]["seconds"]  # without the teachers, which are trained once

        seconds = _alternate({name: (lambda name=name: seconds_of(name)) for name in runs}, asked.rounds, warm=False)
        host.close()
    rates = len(settings.learning_rates)
    print(
        f"\nLRS of {len(made.labels)} images of {data.name} at {data.image_size} px, ConvNet-3, {3 * rates} trainings"
    )
    _print_table(seconds, "DD-Ranking's evaluator")
    for name, row in rows.items():
        print(f"  {name}: " + ", ".join(f"{key} {row[key]:.3g}" for key in ("set_hard", "set_soft", "random_soft")))


def _in_float32(name: str, folder: str) -> str:
    import yaml

    fields = load_protocol(name).model_dump(mode="json") | {"execution": {"precision": "float32"}}
    path = f"{folder}/{name}_float32.yaml"
    with open(path, "w", encoding="utf-8") as file:
        yaml.safe_dump(fields, file)
    return path


def equivalence(asked: argparse.Namespace) -> None:
    """Accuracy in bfloat16 minus float32, paired: one set, initialisation and batches for both in each seed.

    Whether a student may take bfloat16 is a choice, so nothing is scored on the test split, but on all images of train
    and validation that are not in the seed's set. (A teacher has seen them; both formats have the same one.)
    """
    data, settings = load_data(asked.data), load_protocol(asked.protocol).model_dump()
    if settings["label_mode"] not in ("hard", "soft_online"):
        raise SystemExit("equivalence makes no bank of soft labels; take a protocol that is hard or soft_online")
    if asked.steps:
        settings |= {"steps": asked.steps, "epochs": None, "students": {}}
    if asked.batch:
        settings |= {"batch_size": asked.batch}
    forms = {p: Protocol.model_validate(settings | {"execution": {"precision": p}}) for p in ("float32", "bfloat16")}
    teacher = _teacher(data, asked.device) if forms["float32"].needs_teacher else None
    for student in asked.students:
        tops, seconds = {p: [] for p in forms}, {p: [] for p in forms}
        for seed in range(*asked.seeds):
            train, held_out = drawn_set(data, asked.ipc[0], seed)
            for p in sorted(forms, reverse=seed % 2 == 0):
                numbers = forms[p].numbers(student, len(train), data.num_classes)
                result = train_student(
                    train, student, forms[p], held_out, seed=seed, teacher=teacher, device=asked.device, split="val"
                )
                tops[p].append(result.top1)
                seconds[p].append(numbers.steps * numbers.batch_size / result.train_images_per_second)
            last = ", ".join(f"{p} {tops[p][-1]:.3f} % in {seconds[p][-1]:.2f} s" for p in forms)
            print(f"  {student} seed {seed}: {last}", flush=True)
        mean, half = paired_interval([b - a for a, b in zip(tops["float32"], tops["bfloat16"], strict=True)])
        faster = statistics.median(a / b for a, b in zip(seconds["float32"], seconds["bfloat16"], strict=True))
        print(
            f"{student}, {data.name}, IPC {asked.ipc[0]}, {asked.protocol}, {numbers.steps} steps of "
            f"{numbers.batch_size}, {len(tops['float32'])} seeds, {len(held_out.val)} held-out images: "
            f"float32 / bfloat16 {statistics.mean(tops['float32']):.2f} / {statistics.mean(tops['bfloat16']):.2f}, "
            f"difference {mean:+.2f}, 95 % interval {mean - half:+.2f} to {mean + half:+.2f}, "
            f"{faster:.2f} times faster",
            flush=True,
        )


def drawn_set(data: ImageData, ipc: int, seed: int) -> tuple[TrainingSet, ImageData]:
    """Return ``ipc`` random images of each class, and ``data`` with all others of train and val as its val split."""
    parts, random = (data.train, data.val), numpy_rng("equivalence", seed)
    pool = ArraySplit(torch.cat([part.images() for part in parts]), torch.cat([part.labels for part in parts]))
    rows = torch.cat([c[torch.from_numpy(random.permutation(len(c))[:ipc])] for c in rows_by_class(pool.labels)])
    others = torch.ones(len(pool), dtype=torch.bool).index_fill_(0, rows, False).nonzero().flatten()
    return TrainingSet.from_split(pool.subset(rows)), dataclasses.replace(data, val=pool.subset(others))


def paired_interval(differences: list[float]) -> tuple[float, float]:
    """Return mean and half width of the 95 % confidence interval (Student's t)."""
    from scipy.stats import t

    count = len(differences)
    error = statistics.stdev(differences) / count**0.5
    return statistics.mean(differences), float(t.ppf(0.975, count - 1)) * error


def _teacher(data: ImageData, device: str) -> Teacher:
    return train_teacher(data, "convnet3_bn_w32", load_protocol("teacher_short"), 0, device=device, progress=False)


def noise(ipc: int, size: int) -> ImageData:
    """Return random images: what a step costs does not depend on what is to be seen."""
    stream = torch.Generator().manual_seed(0)

    def split(count: int) -> ArraySplit:
        labels = torch.arange(CLASSES).repeat_interleave(count)
        return ArraySplit(torch.randint(0, 256, (len(labels), 3, size, size), generator=stream).to(torch.uint8), labels)

    names = tuple(str(c) for c in range(CLASSES))
    return ImageData("noise", names, size, split(ipc), split(1), split(1), identity="noise")


def _alternate(runs: dict, rounds: int, *, warm: bool = True) -> dict[str, list[float]]:
    """Return the seconds of each contender, which take turns; ``warm`` runs each once beforehand."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + warm):
        for name, run in runs.items():
            taken = run()
            if number >= warm:
                seconds[name].append(taken)
    return seconds


def _print_table(seconds: dict[str, list[float]], *references: str) -> None:
    print(f"{'':46} {'ms':>9}  " + "  ".join(f"against {name}" for name in references))
    for name, taken in seconds.items():
        ratios = [
            statistics.median(a / b for a, b in zip(seconds[reference], taken, strict=True)) for reference in references
        ]
        print(
            f"{name:46} {1000 * statistics.median(taken):9.1f}  " + "  ".join(f"{r:.2f}x" for r in ratios), flush=True
        )


if __name__ == "__main__":
    main()
