"""The loops that student training is compared with: DD-Ranking's own, or a plain one where it is not installed."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset
from torchvision.transforms import v2

from ddoq_plugin.data import ImageData, load_data
from ddoq_plugin.distilled_set import DistilledSet
from ddoq_plugin.errors import DDOQError
from ddoq_plugin.evaluation import build_student
from ddoq_plugin.hosts.networks import build_host_student
from ddoq_plugin.hosts.patches import check_host

# DSA of the DATM rows of DD-Ranking's leaderboard
DSA_NUMBERS = {
    "flip": 0.5,
    "rotate": 15.0,
    "saturation": 2.0,
    "brightness": 1.0,
    "contrast": 0.5,
    "scale": 1.2,
    "crop": 0.125,
    "cutout": 0.5,
}
HOST_NAMES = {"convnet3": "ConvNet-3", "resnet18": "ResNet-18-BN:torchvision", "mlp": "MLP"}


def host_is_installed() -> bool:
    """Return whether DD-Ranking can be compared with."""
    try:
        check_host()
    except DDOQError:
        return False
    return True


class Elsewhere:
    """A peer in a process of its own: what we change in ours (how freed memory is kept) does not speed it up.

    ``make(*arguments)``, called there, returns the function that each call runs.
    """

    def __init__(self, make: Callable, *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, torch.get_num_threads(), make, arguments))
        process.start()

    def __call__(self) -> object:
        self._connection.send(True)
        return self._connection.recv()

    def close(self) -> None:
        """End the process."""
        self._connection.send(False)


def _serve(connection, threads: int, make: Callable, arguments: tuple) -> None:
    torch.set_num_threads(threads)
    usual = multiprocessing.get_all_start_methods()[0]  # not the "spawn" of this process: it slows data loaders down
    multiprocessing.set_start_method(usual, force=True)
    run = make(*arguments)
    while connection.recv():
        connection.send(run())


def host_epoch(student: str, images: Tensor, labels: Tensor, batch: int, workers: int, device: str) -> Callable:
    """Return a function that trains one epoch by ``ddranking.utils.train_one_epoch`` and returns its seconds.

    Hard labels, its DSA (one transformation a batch), its DataLoader with ``workers`` processes. ``images`` are float
    [n, 3, S, S]. A student it does not have for small images (ViT) is ours, in its loop.
    """
    from ddranking.aug import DSA
    from ddranking.utils import get_optimizer, train_one_epoch

    model = _host_model(student, int(labels.max()) + 1, images.shape[-1]).to(device)
    data = TensorDataset(images, labels)
    loader = DataLoader(data, batch_size=batch, num_workers=workers, sampler=RandomSampler(data))
    optimizer = get_optimizer("sgd", model, 0.01, 5e-4, 0.9)
    augment, loss = DSA(dict(DSA_NUMBERS), aug_mode="S"), nn.CrossEntropyLoss()

    def run() -> float:
        started = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            train_one_epoch(0, model, loader, loss, optimizer, aug_func=augment, device=device)
        _finish(device)
        return time.perf_counter() - started

    return run


def plain_epoch(student: str, images: Tensor, labels: Tensor, batch: int, workers: int, device: str) -> Callable:
    """Return the same for a loop as it is usually written: DataLoader, torchvision's transform of each batch, SGD."""
    model = build_student(student, int(labels.max()) + 1, images.shape[-1], seed=0).to(device)
    data = TensorDataset(images, labels)
    loader = DataLoader(data, batch_size=batch, num_workers=workers, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    augment = v2.Compose([v2.RandomResizedCrop(images.shape[-1], antialias=False), v2.RandomHorizontalFlip()])
    loss = nn.CrossEntropyLoss()

    def run() -> float:
        started = time.perf_counter()
        for x, y in loader:
            loss(model(augment(x.to(device))), y.to(device)).backward()
            optimizer.step()
            optimizer.zero_grad()
        _finish(device)
        return time.perf_counter() - started

    return run


def _host_model(student: str, classes: int, size: int) -> nn.Module:
    if student in HOST_NAMES:
        return build_host_student(HOST_NAMES[student], classes, size)
    return build_student(student, classes, size, seed=0)


def _finish(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def host_score(data_name: str, ipc: int, settings: object, folder: str, device: str) -> Callable:
    """Return a function that runs DD-Ranking's LRS evaluator on ``first_images`` and returns its row."""
    from ddoq_plugin.hosts import score_with_ddranking

    data = load_data(data_name)
    made = first_images(data, ipc)

    def run() -> dict:
        rows = score_with_ddranking(
            {"first": made}, data, metric="lrs", student="ConvNet-3", settings=settings, device=device,
            work_folder=folder, progress=False,
        )  # fmt: skip
        return rows.iloc[0].to_dict()

    return run


def first_images(data: ImageData, ipc: int) -> DistilledSet:
    """Return the first ``ipc`` training images of every class as a set."""
    rows = torch.cat([data.train.class_indices(c)[:ipc] for c in range(data.num_classes)])
    about = {"method": "first", "label": "first"}
    return DistilledSet(data.train.images(rows), data.train.labels[rows], data.class_names, provenance=about)
