"""The latents of a class: encoded shard by shard, so that memory is bounded and a killed process loses one shard.

A shard is ``ENCODE_SHARD`` images in the class's order. Each is read, encoded, rounded to float16 and written whole or
not at all into the artifact's working folder; the last step joins the shards into one file. Called again after
anything that killed it, the work goes on at the first missing shard."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from ..errors import DistillError
from ..registry import PRIORS
from ..seeding import derive_seed
from ..store.code import code_hash
from ..store.metering import Cost, measure
from ..store.tensor_files import Stream, read_metadata, read_tensors, write_tensors

if TYPE_CHECKING:
    from ..data import ImageData
    from ..priors import Prior
    from .method import CodebookOptions

ENCODE_SHARD = 256  # images; part of no key: an image's latent does not depend on its neighbours
FILE = "tensor.safetensors"


class ClassEncoder:
    """The encoding of one class in one space.

    Memory: one shard of images (``ENCODE_SHARD * 3 * S * S`` bytes), what the prior needs for a batch of them, and the
    shard's latents, whatever the number N of the class's images."""

    def __init__(
        self, data: ImageData, prior: Prior | None, class_id: int, options: CodebookOptions, *, progress: bool = False
    ) -> None:
        self.data, self.prior, self.class_id, self.options, self.progress = data, prior, class_id, options, progress
        self.is_pixels = options.space == "pixel" or prior is None  # which nobody has to encode or store

    @property
    def key(self) -> dict[str, Any]:
        """What the latents depend on."""
        options = self.options
        key: dict[str, Any] = {"data": self.data.fingerprint, "class": self.class_id, "space": options.space}
        if self.prior is not None and not self.is_pixels:
            key |= {"prior": self.prior.fingerprint, "encoding": options.encoding}
            key["code"] = code_hash(__name__, prior_module(self.prior))
            if options.space == "noise":
                key |= {"inversion_steps": options.inversion_steps, "names": list(self.data.class_names)}
        return key

    def write(self, folder: Path) -> Cost:
        """Write the class's latents into ``folder``, going on from the shards that are there, and return their cost.

        The cost is that of making the shards, whichever process made them."""
        made = folder / FILE
        if _rows(made) is None:  # it was joined already where a process died between here and its publication
            assert self.prior is not None
            shards = self.data.train.class_indices(self.class_id).split(ENCODE_SHARD)
            files = [folder / f"shard_{number:05d}.safetensors" for number in range(len(shards))]
            for file, rows in zip(files, shards, strict=True):
                if _rows(file) != len(rows):
                    with measure(self.prior.device) as meter:
                        latents = self._encode(self.prior, rows)
                    metadata = _metadata(Cost.of(meter, len(rows)))
                    write_tensors(file, {"tensor": latents}, metadata, sync=len(shards) > 1)
            _join(files, made)
        for file in folder.iterdir():
            if file != made:
                file.unlink()
        return _cost(made)

    def _encode(self, prior: Prior, rows: torch.Tensor) -> torch.Tensor:
        """Return the latents of the images at ``rows`` of the training split, float16."""
        sample = self.options.encoding == "sample"
        seeds = [derive_seed("encode", index) for index in rows.tolist()] if sample else None
        latents = prior.encode(self.data.train.images(rows), sample=sample, seeds=seeds)
        if self.options.space == "noise":
            classes = torch.full((len(latents),), self.class_id)
            latents = prior.invert(latents, classes, steps=self.options.inversion_steps, progress=self.progress)
        bad = ~torch.isfinite(latents.flatten(1)).all(1)
        if bad.any():
            raise DistillError(
                f"the prior gave NaN or infinite latents for {int(bad.sum())} images of class "
                f"{self.data.class_names[self.class_id]!r}; check those images and the prior's precision (try float32)"
            )
        return latents.half()


def prior_module(prior: Prior) -> str:
    """Return the module that defines a prior, also where only its facts are at hand."""
    return PRIORS.module(prior.name) if prior.name in PRIORS else type(prior).__module__


def scaled_pixels(images: torch.Tensor) -> torch.Tensor:
    """Return uint8 images as latents: float32 in [0, 1], rounded to float16 as all latents are."""
    latents = torch.empty(images.shape)
    for made, part in zip(latents.split(ENCODE_SHARD), images.split(ENCODE_SHARD), strict=True):
        made.copy_((part.float() / 255).half())
    return latents


def _join(files: Sequence[Path], made: Path) -> None:
    """Make one file of shards, without reading more than one of them at a time; its cost is their sum."""
    if len(files) == 1:
        os.replace(files[0], made)
        return
    first = read_tensors(files[0])["tensor"]
    rows = sum(_rows(file) or 0 for file in files)
    joined = Stream(first.dtype, (rows, *first.shape[1:]), (read_tensors(file)["tensor"] for file in files))
    write_tensors(made, {"tensor": joined}, _metadata(Cost.total(_cost(file) for file in files)))


def _metadata(cost: Cost) -> dict[str, str]:
    return {"cost": json.dumps(asdict(cost))}


def _cost(file: Path) -> Cost:
    return Cost(**json.loads(read_metadata(file)["cost"]))


def _rows(file: Path) -> int | None:
    """Return the number of latents in a file, None where it is not there or not whole."""
    try:
        return len(read_tensors(file)["tensor"])
    except (OSError, KeyError, SafetensorError):
        return None
