"""The resolved form of a config: what every process of a sweep reads, wherever it runs."""

import inspect
from pathlib import Path
from typing import Any

import torch

from ..config import DatasetConfig, SweepConfig
from ..outputs import absolute
from ..registry import DATASETS, load_plugin
from ..yaml_files import EXTENDS


def resolved(config: SweepConfig) -> SweepConfig:
    """Return the config with absolute paths (workers run in other folders) and the precision of its prior.

    Where latents are encoded or images generated on GPUs and the config names no ``dtype``, it becomes that of a prior
    on CUDA: otherwise stages on other devices would take the same weights for another prior."""
    content = config.model_dump()
    content |= {"output": absolute(config.output_folder), "store": absolute(config.store_folder)}
    content["plugins"] = [absolute(plugin) for plugin in config.plugins]
    for plugin in content["plugins"]:
        load_plugin(plugin)  # it may bring the dataset
    content["dataset"] = _dataset(config.dataset)
    content["protocol"] = _protocol(config.protocol)
    if config.teacher is not None:
        content["teacher"]["protocol"] = _protocol(config.teacher.protocol)
        content["teacher"]["weights"] = _existing(config.teacher.weights)
    if config.prior is not None:
        content["prior"] |= {"path": _existing(config.prior.path), "train": _file(config.prior.train)}
        if isinstance(content["prior"].get("class_names"), str):
            content["prior"]["class_names"] = absolute(content["prior"]["class_names"])
        if config.prior.name != "pixel" and "dtype" not in config.prior.options() and _prior_on_gpu(config):
            from ..priors.pipelines import pick_dtype

            content["prior"]["dtype"] = str(pick_dtype(None, torch.device("cuda"))).removeprefix("torch.")
    return SweepConfig(**content)


def _dataset(config: DatasetConfig) -> dict[str, Any]:
    """Return a dataset with the absolute path of its files, also where its loader has a default for it."""
    options, (kind, colon, place) = config.options(), config.name.partition(":")
    given = {"path", "root"} & options.keys()
    if colon and kind in ("folder", "npz") and not given:  # a path given twice is the loader's error
        return {"name": kind, "path": absolute(place), **options}
    if not colon and config.name in DATASETS:
        for name, parameter in inspect.signature(DATASETS.load(config.name)).parameters.items():
            if name in ("path", "root") and isinstance(parameter.default, (str, Path)) and not given:
                options[name] = parameter.default
    return {"name": config.name} | {
        name: absolute(value) if name in ("path", "root") else value for name, value in options.items()
    }


def _protocol(given: str | dict[str, Any]) -> str | dict[str, Any]:
    """Return a protocol with the absolute path of its file, or of the file that it extends."""
    if isinstance(given, str):
        return _file(given)
    return {key: _file(value) if key == EXTENDS else value for key, value in given.items()}


def _file(text: str | None) -> str | None:
    """Return the absolute path of a YAML file; any other text is a name, whatever lies in this folder."""
    return _existing(text) if text is not None and text.endswith((".yaml", ".yml")) else text


def _existing(text: str | None) -> str | None:
    """Return the absolute path of what exists as a file or folder; anything else is a name (or a hub id)."""
    return absolute(text) if text is not None and Path(text).expanduser().exists() else text


def _prior_on_gpu(config: SweepConfig) -> bool:
    resources = config.resources
    shares = any(resources.of(stage).gpus for stage in ("encode", "generate"))
    return resources.device.startswith("cuda") or (resources.device == "auto" and shares)
