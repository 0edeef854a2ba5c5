"""DD-Ranking 0.2.0 as it is on PyPI, made to run offline, on any dataset, reproducibly: every workaround is here.

Nothing is changed on disk, and what is changed in memory is put back. Lines are those of the wheel ``ddranking`` 0.2.0.
"""

import contextlib
import importlib.metadata
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, StackDataset, WeightedRandomSampler

from ..errors import EvaluationError
from .exports import HostData
from .settings import HostSettings

KNOWN_VERSION = "0.2.0"


def check_host() -> None:
    """Raise EvaluationError unless the known version of ddranking is installed."""
    try:
        version = importlib.metadata.version("ddranking")
    except importlib.metadata.PackageNotFoundError:
        raise EvaluationError(
            "DD-Ranking is not installed; install the extra: pip install 'ddoq-plugin[ddranking]'"
        ) from None
    if version != KNOWN_VERSION:
        raise EvaluationError(
            f"ddranking {version} is installed, and the adapter is written for {KNOWN_VERSION}; "
            f"pip install ddranking=={KNOWN_VERSION}"
        )


def seed_everything(seed: int) -> None:
    """Seed the global generators of torch (all devices), NumPy and Python, which the host draws from."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextlib.contextmanager
def patched_host(
    data: HostData,
    settings: HostSettings,
    *,
    full_data: Mapping[str, float],
    new_evaluation: Callable[[], None],
    weights_of: Callable[[Path], Tensor | None],
    epoch_done: Callable[[], None],
    log: Path,
) -> Iterator[None]:
    """Run DD-Ranking's evaluators in here, with ``data`` as their dataset; what they print is appended to ``log``.

    ``full_data``: model name -> full-data accuracy in percent. ``new_evaluation`` is called where an evaluator begins a
    repetition, ``epoch_done`` after every epoch of every training. ``weights_of`` returns the weights float [n] of the
    images of a folder, in the order of their file names (None: equal)."""
    from ddranking.metrics import aug_robust, soft_label
    from ddranking.utils import train_and_eval

    scores = (soft_label, aug_robust)
    with contextlib.ExitStack() as stack:

        def replace(modules: tuple[Any, ...], name: str, value: Any) -> None:
            for module in modules:
                stack.callback(setattr, module, name, getattr(module, name))
                setattr(module, name, value)

        # utils/data.py:55-163 knows ten names; any other leaves its variables unset. Both evaluators import the
        # function by name (soft_label.py:13, aug_robust.py:13).
        if not data.own:
            replace(scores, "get_dataset", lambda *arguments: _dataset(data, custom_scoring=arguments[4]))
        # utils/misc.py:9-11: called without a seed (soft_label.py:513, aug_robust.py:533) it takes the clock's.
        replace(scores, "set_seed", new_evaluation)
        # utils/model.py:113-121 lets a torchvision or timm teacher download weights and ignores its file; :27 and the
        # others open None where there is no file (:150-154).
        replace(scores, "build_model", _build_model(soft_label.build_model))
        # utils/train_and_eval.py:131-213 has no place for weights.
        train = _weighted_training(soft_label.train_one_epoch, settings.weighting, weights_of)
        replace(scores, "train_one_epoch", train)
        # utils/train_and_eval.py:203 and :240 ask for the top five of fewer classes.
        top = train_and_eval.accuracy
        replace(
            (train_and_eval,),
            "accuracy",
            lambda output, target, topk=(1,): top(output, target, tuple(min(k, output.shape[1]) for k in topk)),
        )
        # soft_label.py:361, aug_robust.py:289 and :344: a bar for each of dozens of trainings.
        replace(scores, "tqdm", lambda epochs, **_: _counted(epochs, epoch_done))
        # utils/train_and_eval.py:15-18 knows two full-data accuracies, and soft_label.py:538 raises without one. The
        # dictionary is shared by all modules, so it is filled in place.
        cache = train_and_eval.REAL_DATA_ACC_CACHE
        stack.callback(cache.update, dict(cache))
        stack.callback(cache.clear)  # before that update: the last callback is the first to be called
        cache.update({f"{data.name}-{model}": value for model, value in full_data.items()})
        # The host draws from the global generators and prints two lines an epoch (utils/meter.py:154).
        stack.callback(np.random.set_state, np.random.get_state())
        stack.callback(random.setstate, random.getstate())
        stack.enter_context(torch.random.fork_rng(devices=range(torch.cuda.device_count())))
        replace((torch.backends.cudnn,), "deterministic", True)
        replace((torch.backends.cudnn,), "benchmark", False)
        stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(log, "a", encoding="utf-8"))))
        yield


def _dataset(data: HostData, custom_scoring: Any) -> tuple[Any, ...]:
    """Return what ``get_dataset`` returns, from class folders (they have the targets and samples it reads)."""
    from torchvision import transforms as T
    from torchvision.datasets import ImageFolder

    size, normaliser = (data.image_size, data.image_size), data.normaliser
    plain = T.Compose([T.Resize(size), T.ToTensor(), T.Normalize(normaliser.mean, normaliser.std)])
    train, test = ImageFolder(data.folder / "train", plain), ImageFolder(data.folder / "val", plain)
    scored = ImageFolder(data.folder / "val", plain if custom_scoring is None else custom_scoring)
    same = {c: c for c in range(data.num_classes)}
    return 3, size, list(normaliser.mean), list(normaliser.std), data.num_classes, train, test, scored, same, same


def _build_model(original: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    def build(model_name: str, *, pretrained: bool = False, model_path: str | None = None, **rest: Any) -> nn.Module:
        model = original(model_name, pretrained=False, **rest)
        if pretrained:
            if model_path is None:
                raise EvaluationError(
                    f"there is no checkpoint of the teacher {model_name!r}; it belongs in "
                    f"<teacher folder>/<dataset>/{model_name}/ckpt_best.pt"
                )
            model.load_state_dict(torch.load(model_path, map_location="cpu", weights_only=True))
            # its loop runs the teacher with gradients (utils/train_and_eval.py:178); no result depends on them
            model.requires_grad_(False)
        return model

    return build


def _weighted_training(
    original: Callable[..., None], way: str, weights_of: Callable[[Path], Tensor | None]
) -> Callable[..., None]:
    def train_one_epoch(*, loader: Any, loss_fn: nn.Module, **rest: Any) -> None:
        root = getattr(loader.dataset, "root", None)
        weights = None if root is None else weights_of(Path(root))
        if weights is not None and way == "sampler":
            sampler = WeightedRandomSampler(weights.tolist(), len(weights), replacement=True)
            loader = DataLoader(loader.dataset, loader.batch_size, sampler=sampler, num_workers=loader.num_workers)
        elif weights is not None and way == "loss":
            loader = _WeightedBatches(loader, weights)
            loss_fn = _WeightedLoss(loss_fn, loader)
        original(loader=loader, loss_fn=loss_fn, **rest)

    return train_one_epoch


class _WeightedBatches:
    """A loader's batches of (images, labels), which remembers the weights of the batch it gave last."""

    def __init__(self, loader: DataLoader, weights: Tensor) -> None:
        self.dataset, self.weights, self.batch_weights = loader.dataset, weights, weights[:0]
        images: Any = loader.dataset
        rows: Any = range(len(images))
        numbered = StackDataset(images, rows)
        self._loader = DataLoader(numbered, loader.batch_size, sampler=loader.sampler, num_workers=loader.num_workers)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for (images, labels), rows in self._loader:
            self.batch_weights = self.weights[rows]
            yield images, labels


class _WeightedLoss(nn.Module):
    """sum_i w_i * loss_i / B of a loss that is the mean over its batch, taken image by image."""

    def __init__(self, loss: nn.Module, batches: _WeightedBatches) -> None:
        super().__init__()
        self.loss, self.batches = loss, batches

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        losses = [self.loss(outputs[i : i + 1], targets[i : i + 1]) for i in range(len(outputs))]
        return (torch.stack(losses) * self.batches.batch_weights.to(outputs.device)).sum() / len(outputs)


def _counted(epochs: Iterable[int], epoch_done: Callable[[], None]) -> Iterator[int]:
    for epoch in epochs:
        yield epoch
        epoch_done()
