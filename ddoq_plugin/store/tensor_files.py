"""Tensors larger than memory: written as a stream, read as mapped files, filled in a file instead of in memory.

Files are in the safetensors layout (format description in the README of huggingface/safetensors): 8 bytes with the
header's length (unsigned, little-endian), a JSON header of ``{name: {dtype, shape, data_offsets}}``, then the raw
bytes of the tensors without gaps. safetensors itself can only write what lies in memory as a whole; it reads with a
memory map, so that a tensor's bytes come from the disk when they are touched and may be dropped again."""

from __future__ import annotations

import json
import math
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CHUNK = 2**24  # bytes that are handed to the disk or to a hash at a time
IN_MEMORY = 2**26  # bytes up to which a set's images are kept in memory: 64 MiB
_NAMES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64",
    "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
}  # fmt: skip


@dataclass
class Stream:
    """A tensor that is made part by part: ``parts`` of ``dtype``, joined along the first dimension, give ``shape``."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    parts: Iterable[torch.Tensor]


def write_tensors(
    path: str | Path,
    tensors: Mapping[str, torch.Tensor | Stream],
    metadata: Mapping[str, str] | None = None,
    *,
    sync: bool = False,
) -> None:
    """Write a safetensors file part by part, whole or not at all (also after kill -9).

    Memory: one part of a stream at a time; a tensor is written from where it lies. ``sync`` waits for the disk, so that
    the file is whole after a power cut too: for files that no store checks. Raises ValueError where the parts of a
    stream do not give what it declares."""
    path = Path(path)
    # safetensors orders tensors by the size of their elements, so that all are aligned
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, tensor in ordered:
        end = offset + math.prod(tensor.shape) * tensor.dtype.itemsize
        kind = _NAMES[str(tensor.dtype).removeprefix("torch.")]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with open(temporary, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name, tensor in ordered:
                for part in _checked_parts(name, tensor) if isinstance(tensor, Stream) else [tensor]:
                    file.writelines(raw_chunks(part))
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file, mapped: their bytes are read when they are touched."""
    from safetensors.torch import load_file

    return load_file(path)


def read_metadata(path: str | Path) -> dict[str, str]:
    """Return the texts in the header of a safetensors file."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def raw_chunks(tensor: torch.Tensor) -> Iterator[memoryview]:
    """Yield the bytes of a tensor in order, copying at most ``CHUNK`` of them (or one row) at a time."""
    import torch

    tensor = tensor.detach()
    if tensor.ndim == 0 or tensor.numel() == 0:
        tensor = tensor.reshape(-1)
    per_row = max(1, tensor[:1].numel() * tensor.dtype.itemsize)
    for part in tensor.split(max(1, CHUNK // per_row)) if tensor.numel() else ():
        yield part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def empty_tensor(shape: tuple[int, ...], dtype: torch.dtype, folder: str | Path | None = None) -> torch.Tensor:
    """Return a tensor to be filled: in memory up to ``IN_MEMORY`` bytes, above that in a nameless file of ``folder``.

    Its pages are the file's, so that the kernel can write them out; the file goes with the tensor, or with the
    process. ``folder`` None: the system's folder for temporary files. Raises OSError where the disk has no room."""
    import torch

    count = math.prod(shape)
    size = count * dtype.itemsize
    if size <= IN_MEMORY:
        return torch.empty(shape, dtype=dtype)
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix="ddoq-tensor-", dir=folder)
    try:
        if hasattr(os, "posix_fallocate"):  # a full disk is an error here, not a dead process at a later write
            os.posix_fallocate(handle, 0, size)
        else:
            os.truncate(handle, size)
        return torch.from_file(name, shared=True, size=count, dtype=dtype).view(shape)
    finally:
        os.close(handle)
        os.unlink(name)


def _checked_parts(name: str, stream: Stream) -> Iterator[torch.Tensor]:
    rows = 0
    for part in stream.parts:
        if part.dtype != stream.dtype or tuple(part.shape[1:]) != tuple(stream.shape[1:]):
            raise ValueError(f"a part of {name!r} is {part.dtype} {list(part.shape)}, not rows of {stream}")
        rows += len(part)
        yield part
    if rows != stream.shape[0]:
        raise ValueError(f"the parts of {name!r} have {rows} rows, not {stream.shape[0]}")
