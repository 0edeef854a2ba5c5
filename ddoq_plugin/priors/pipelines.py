"""Pipeline folders: where a prior lies on disk, whether it is whole, and its fingerprint."""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline, ModelMixin
from huggingface_hub import hf_hub_download, snapshot_download

from ..errors import PriorError, nearest
from .binding import SIDECAR

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WEIGHTS = "*.safetensors, or *.bin"
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def locate(
    path: str | Path,
    pipeline: type[DiffusionPipeline],
    accepted: Sequence[str],
    components: Mapping[str, bool],
    skip: Mapping[str, None] | None = None,
) -> tuple[Path, dict]:
    """Return the folder of a pipeline (``path`` itself, or what the hub or its cache has under the id ``path``) and the
    content of its ``model_index.json``.

    ``accepted`` are the pipeline classes that may be there, checked before weights are fetched. ``components`` are the
    parts that will be loaded, True for those with weights; those in ``skip`` are not fetched. Raises PriorError where
    there is no such pipeline or it is not whole."""
    folder = Path(path).expanduser()
    if folder.exists() and not folder.is_dir():
        raise PriorError(f"the prior {path} is a file: give the folder of a {pipeline.__name__}")
    if not folder.exists():
        if not HUB_ID.fullmatch(str(path)):
            raise PriorError(f"the folder {path} does not exist: give the folder or hub id of a {pipeline.__name__}")
        with _from_hub(path):
            _read_index(Path(hf_hub_download(str(path), "model_index.json")), accepted)
            folder = Path(pipeline.download(str(path), **skip or {}))
    index_file = folder / "model_index.json"
    if not index_file.is_file():
        raise PriorError(f"the folder {folder} has no model_index.json: give the folder that save_pretrained wrote")
    index = _read_index(index_file, accepted)
    _check_no_code(folder, index, skip or {})
    for component, has_weights in components.items():
        part = folder / component
        if not part.is_dir() or not any(part.glob("*.json")):
            raise PriorError(f"the pipeline {folder} has no configuration in {component}/: write or download it again")
        if has_weights and not _weight_files(part):
            raise PriorError(f"the pipeline {folder} has no weights in {component}/ ({_WEIGHTS}): download it whole")
    return folder, index


def _read_index(file: Path, accepted: Sequence[str]) -> dict:
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
        found = index["_class_name"]
    except (json.JSONDecodeError, KeyError, TypeError) as problem:
        raise PriorError(f"{file} is damaged ({problem!r}): write the pipeline again") from None
    if found not in accepted:
        raise PriorError(f"the folder {file.parent} holds a {found}: this prior reads a {' or '.join(accepted)}")
    return index


def _check_no_code(folder: Path, index: Mapping[str, Any], skip: Mapping[str, None]) -> None:
    """Raise PriorError where a pipeline names parts of other libraries, or has Python files: both may run as code."""
    for name, named in index.items():
        known = isinstance(named, list) and len(named) == 2 and named[0] in ("diffusers", "transformers", None)
        if isinstance(named, list) and not known and name not in skip:
            raise PriorError(
                f"the part {name!r} of the pipeline {folder} is {named!r}, which is no class of diffusers or "
                "transformers: a prior must not bring code of its own; take another"
            )
    code = next(folder.rglob("*.py"), None)
    if code is not None:
        raise PriorError(
            f"the pipeline {folder} holds code ({code.relative_to(folder)}): remove it if you trust the rest"
        )


def _weight_files(part: Path) -> list[Path]:
    # diffusers reads .bin files as tensors only; facebook/DiT-XL-2-256 is published in this form
    return sorted(part.glob("*.safetensors")) or sorted(part.glob("*.bin"))


def fingerprint(
    folder: Path, components: Mapping[str, bool], dtype: torch.dtype, tiling: bool | None, **options: object
) -> str:
    """Return the sha256 (hex) of every file that is loaded, by relative path, and of the options."""
    options |= {"dtype": dtype} | ({"tiling": True} if tiling else {})
    files = [file for name in ("model_index.json", SIDECAR) if (file := folder / name).is_file()]
    for component, has_weights in components.items():
        part = folder / component
        files += sorted((*part.glob("*.json"), *part.glob("*.txt")))
        files += _weight_files(part) if has_weights else []
    digest = hashlib.sha256(json.dumps(options, sort_keys=True, default=str).encode())
    for file in files:
        with file.open("rb") as stream:
            digest.update(f"\0{file.relative_to(folder).as_posix()}\0".encode())
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def load_pipeline(
    pipeline: type[DiffusionPipeline], folder: Path, dtype: torch.dtype, device: torch.device, **replaced: object
) -> DiffusionPipeline:
    """Load a pipeline from its folder, frozen and in evaluation mode.

    PriorError where diffusers cannot read it, or a network's file lacks tensors or has others."""
    index, parts = json.loads((folder / "model_index.json").read_text(encoding="utf-8")), dict(replaced)
    for name, named in index.items():
        if name not in parts and isinstance(named, list) and _weight_files(folder / name):
            kind = getattr(diffusers if named[0] == "diffusers" else transformers, named[1], None)
            if kind is None:
                raise PriorError(f"the part {name!r} of {folder} is an unknown {named[1]}: update {named[0]}")
            parts[name] = _whole(kind, folder / name)
    return freeze(_read(pipeline, "pipeline", folder, **parts), dtype, device)


def load_part(kind: type[ModelMixin], folder: Path, dtype: torch.dtype, device: torch.device) -> ModelMixin:
    """Load one network from its own folder, as :func:`load_pipeline` does a pipeline's."""
    if not _weight_files(folder):
        raise PriorError(f"the folder {folder} has no weights ({_WEIGHTS}): download it whole")
    return _frozen(_whole(kind, folder), dtype, device)


def _whole(kind: Any, folder: Path) -> Any:
    """Load a network all of whose tensors are in its files, and no others: what is missing would be random."""
    network, about = _read(kind, "network", folder, output_loading_info=True)
    for what, names in (("lacks", about["missing_keys"]), ("has the unknown", about["unexpected_keys"])):
        wrong = sorted(name for name in names if not name.endswith("position_ids"))  # a constant of older versions
        if wrong:
            listed = ", ".join(wrong[:2]) + (f" and {len(wrong) - 2} more" if len(wrong) > 2 else "")
            raise PriorError(f"the network {folder} {what} tensors {listed}: download it again, it is not whole")
    return network


def _read(kind: Any, word: str, folder: Path, **replaced: object) -> Any:
    try:
        with _quiet():
            # the default of low_cpu_mem_usage needs accelerate, and says so at each load
            return kind.from_pretrained(folder, local_files_only=True, low_cpu_mem_usage=False, **replaced)
    except Exception as problem:  # damaged weights, foreign configs: diffusers, safetensors and torch raise many kinds
        reason = _first_line(problem)
        raise PriorError(f"the {word} {folder} cannot be loaded ({reason}): write or download it again") from problem


def fetch(path: str | Path, part: str) -> Path:
    """Return the folder of one network: ``path``, its subfolder ``part`` where it is a pipeline's, or the hub's."""
    folder = Path(path).expanduser()
    if not folder.exists() and HUB_ID.fullmatch(str(path)):
        names = ["model_index.json", "config.json", "diffusion_pytorch_model.*", f"{part}/*"]
        with _from_hub(path):
            folder = Path(snapshot_download(str(path), allow_patterns=names))
    if not folder.is_dir():
        raise PriorError(f"the folder {path} does not exist: give the folder or hub id of an auto-encoder")
    return folder / part if (folder / part / "config.json").is_file() else folder


def freeze(pipeline: DiffusionPipeline, dtype: torch.dtype, device: torch.device) -> DiffusionPipeline:
    """Move the networks of a pipeline and set them to evaluation without gradients, in place."""
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            _frozen(component, dtype, device)
    return pipeline


def _frozen(network: torch.nn.Module, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    # diffusers' own .to warns at each dtype given, about a list of modules that is empty here
    return torch.nn.Module.to(network, device=device, dtype=dtype).eval().requires_grad_(False)


def pick_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """Return the dtype of the weights; None is float32 on the CPU and float16 on CUDA."""
    if dtype is None:
        return torch.float16 if device.type == "cuda" else torch.float32
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise PriorError(f"unknown dtype {name!r}{nearest(name, _DTYPES)} (known: {', '.join(_DTYPES)})")
    return _DTYPES[name]


@contextlib.contextmanager
def _from_hub(path: str | Path) -> Iterator[None]:
    """Turn what the hub's client raises, which is of many kinds, into a PriorError."""
    try:
        yield
    except PriorError:
        raise
    except Exception as problem:
        raise PriorError(
            f"{path} is neither a folder nor a model that the Hugging Face hub gives from here "
            f"({_first_line(problem)}): check the name, or download it elsewhere and give its folder"
        ) from problem


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Switch the loading bars of diffusers and transformers off for a while."""
    libraries = [diffusers.utils.logging, transformers.utils.logging]
    shown = [library for library in libraries if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()


def _first_line(problem: BaseException) -> str:
    lines = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {lines[0][:200]}" if lines else type(problem).__name__
