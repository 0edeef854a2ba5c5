"""The DiT prior: any ``DiTPipeline`` (facebook/DiT-XL-2-256, or one made by ``train_prior``)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiTPipeline
from torch import Tensor

from ..errors import PriorError
from .base import pick_device
from .binding import SIDECAR, WORDNET_ID, imagenet_wordnet_ids, match_classes, read_class_names
from .latent import LatentDiffusionPrior
from .pipelines import fingerprint, load_pipeline, locate, pick_dtype
from .sampling import Course
from .speed import arrange

_COMPONENTS = {"transformer": True, "vae": True, "scheduler": False}
_IMAGENET_CLASSES = 1000


class DiTPrior(LatentDiffusionPrior):
    """A class-conditional diffusion transformer (Peebles & Xie, 2023) over an auto-encoder's latents.

    The null class of classifier-free guidance is the last row of the label embedding, whatever the number of classes
    (the stock pipeline's own call fixes it at 1000). The channels of a learned variance are dropped."""

    name = "dit"

    def __init__(
        self,
        pipeline: DiTPipeline,
        known_classes: Sequence[str],
        wordnet_ids: Sequence[str] | None,
        class_map: Mapping[str, int | str] | None,
        fingerprint: str,
        eta: float,
        device: torch.device,
        batch_size: int | str,
        **speed: Any,
    ) -> None:
        self.transformer = pipeline.transformer
        size = self.transformer.config.sample_size
        arrange(self.transformer, channels_last=False)  # its one convolution cuts the patches
        super().__init__(pipeline, self.transformer, size, fingerprint, eta, device, batch_size, **speed)
        embedding = self.transformer.transformer_blocks[0].norm1.emb.class_embedder
        self.null_class = embedding.num_classes
        self.has_null_class = embedding.embedding_table.num_embeddings > self.null_class
        self.known_classes = list(known_classes) or [str(number) for number in range(self.null_class)]
        self.wordnet_ids, self.class_map = wordnet_ids, class_map
        self.prior_ids = torch.empty(0, dtype=torch.int64)

    def _match(self, class_names: tuple[str, ...], wordnet_ids: tuple[str, ...] | None) -> None:
        known_ids = self.wordnet_ids
        if known_ids is None and self.null_class == _IMAGENET_CLASSES:
            if wordnet_ids or any(WORDNET_ID.fullmatch(name) for name in class_names):
                known_ids = imagenet_wordnet_ids()
        chosen = dict(self.class_map or {})
        for name, identifier in zip(class_names, wordnet_ids or (), strict=False):
            if known_ids is not None and identifier in known_ids:
                chosen.setdefault(name, identifier)
        self.prior_ids = torch.tensor(match_classes(class_names, self.known_classes, known_ids, chosen))

    def _begin(self, space: str, strength: float, steps: int, scheduler: str | None, guidance_scale: float) -> Course:
        if guidance_scale > 1 and not self.has_null_class:
            raise PriorError("this DiT was trained without a null class: set guidance_scale to 1")
        return super()._begin(space, strength, steps, scheduler, guidance_scale)

    def _condition(self, class_ids: Tensor, guidance_scale: float) -> Tensor:
        ids = self.prior_ids[class_ids].to(self.device)
        return torch.cat([ids, torch.full_like(ids, self.null_class)]) if guidance_scale > 1 else ids

    def _predict(self, noisy: Tensor, time: Tensor, condition: Any) -> Tensor:
        times = time.to(noisy.device).expand(len(noisy))
        return self._call(noisy, timestep=times, class_labels=condition).sample[:, : self.latent_shape[0]]

    def _branch_bytes(self) -> int:
        config = self.transformer.config
        tokens = (config.sample_size // config.patch_size) ** 2
        width = config.num_attention_heads * config.attention_head_dim
        # of one block: its input, the norm, query, key, value, attention, and the four times wider MLP twice
        return 14 * tokens * width * self._denoiser_dtype.itemsize


def load_dit(
    path: str | Path,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    batch_size: int | str = "auto",
    *,
    class_names: str | Path | Sequence[str] | None = None,
    class_map: Mapping[str, int | str] | None = None,
    eta: float = 0.0,
    channels_last: bool | None = None,
    tiling: bool | None = None,
    compile: bool = False,
) -> DiTPrior:
    """Load a ``DiTPipeline`` from a folder or hub id.

    ``class_names`` are the names of its classes in the order of their ids, or a JSON file of them. None reads
    ``class_names.json`` beside ``model_index.json``, or else ``id2label`` of ``model_index.json``; without any of these
    the classes are called "0", "1", ... ``class_map`` gives the prior's class id or name of a dataset's class name, for
    names that do not match by themselves. ``eta`` is the stochasticity of DDIM in [0, 1].

    ``channels_last`` is the memory layout of convolutions (results differ by rounding); None: where networks are large.
    ``tiling`` decodes in overlapping tiles, which needs less memory and changes images a little; None: only where one
    whole image does not fit; False: never. ``compile`` runs the denoiser through ``torch.compile`` (results differ by
    rounding; the first batch of each size takes minutes at full size); where there is no compiler, it warns and runs as
    it is. Raises PriorError where the folder is missing, incomplete or of another kind."""
    device = pick_device(device)
    dtype = pick_dtype(dtype, device)
    folder, index = locate(path, DiTPipeline, ("DiTPipeline",), _COMPONENTS)
    if class_names is None and (folder / SIDECAR).is_file():
        class_names = folder / SIDECAR
    if class_names is None:
        labels = index.get("id2label") or {}
        class_names = [labels[key] for key in sorted(labels, key=int)]
    known, wordnet_ids = read_class_names(class_names)
    wrong = [name for name in class_map or () if not isinstance(name, str)]
    if wrong:
        said = (
            "numbers" if isinstance(wrong[0], (int, float)) and not isinstance(wrong[0], bool) else "yes, no and null"
        )
        raise PriorError(f"class_map has the key {wrong[0]!r}, no text: YAML reads {said} so; write names in quotes")
    identity = fingerprint(folder, _COMPONENTS, dtype, tiling, class_names=known, class_map=class_map, eta=eta)
    pipeline = load_pipeline(DiTPipeline, folder, dtype, device)
    speed = {"channels_last": channels_last, "tiling": tiling, "compile": compile}
    prior = DiTPrior(pipeline, known, wordnet_ids, class_map, identity, eta, device, batch_size, **speed)
    if known and len(known) != prior.null_class:
        raise PriorError(
            f"the pipeline {folder} has {prior.null_class} classes and {len(known)} class names: give one name a class"
        )
    return prior
