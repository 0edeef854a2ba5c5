"""The resolved form of a config: what every process of a sweep reads, wherever it runs."""

from pathlib import Path
from typing import Any

import torch

from ..config import SweepConfig
from ..outputs import absolute
from ..yaml_files import EXTENDS


def resolved(config: SweepConfig) -> SweepConfig:
    """Return the config with absolute paths (workers run in other folders) and the precision of its prior.

    Where latents are encoded or images generated on GPUs and the config names no ``dtype``, it becomes that of a prior
    on CUDA: otherwise stages on other devices would take the same weights for another prior."""
    content = config.model_dump()
    content |= {"output": absolute(config.output_folder), "store": absolute(config.store_folder)}
    content["plugins"] = [absolute(plugin) for plugin in config.plugins]
    kind, colon, place = config.dataset.name.partition(":")
    short = {"name": kind, "path": place} if colon and kind in ("folder", "npz") else {"name": config.dataset.name}
    content["dataset"] = short | config.dataset.options()
    for name in {"path", "root"} & content["dataset"].keys():
        content["dataset"][name] = absolute(content["dataset"][name])
    content["protocol"] = _protocol(config.protocol)
    if config.teacher is not None:
        content["teacher"]["protocol"] = _protocol(config.teacher.protocol)
        content["teacher"]["weights"] = _existing(config.teacher.weights)
    if config.prior is not None:
        content["prior"] |= {"path": _existing(config.prior.path), "train": _existing(config.prior.train)}
        if config.prior.name != "pixel" and "dtype" not in config.prior.options() and _prior_on_gpu(config):
            from ..priors.pipelines import pick_dtype

            content["prior"]["dtype"] = str(pick_dtype(None, torch.device("cuda"))).removeprefix("torch.")
    return SweepConfig(**content)


def _protocol(given: str | dict[str, Any]) -> str | dict[str, Any]:
    """Return a protocol with the absolute path of its file, or of the file that it extends."""
    if isinstance(given, str):
        return _existing(given)
    return {key: _existing(value) if key == EXTENDS else value for key, value in given.items()}


def _existing(text: str | None) -> str | None:
    """Return the absolute path of what exists as a file or folder; anything else is a name (or a hub id)."""
    return absolute(text) if text is not None and Path(text).expanduser().exists() else text


def _prior_on_gpu(config: SweepConfig) -> bool:
    resources = config.resources
    shares = any(resources.of(stage).gpus for stage in ("encode", "generate"))
    return resources.device.startswith("cuda") or (resources.device == "auto" and shares)
