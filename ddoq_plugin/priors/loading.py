"""load_prior: a prior by its registry name."""

import inspect
from pathlib import Path

import torch

from ..errors import PriorError, nearest
from ..registry import PRIORS
from .base import Prior


def load_prior(
    name: str,
    *,
    path: str | Path | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    batch_size: int | str = "auto",
    **options: object,
) -> Prior:
    """Return the prior registered as ``name``.

    ``path`` is the folder or hub id of its pipeline, for the priors that have one; ``device`` "auto" (CUDA where there
    is one), "cpu", "cuda", "cuda:1", ...; ``dtype`` "float32", "float16" or "bfloat16" (None: float32 on the CPU and
    float16 on CUDA, as D4M's code). ``batch_size`` counts the images of a forward pass; "auto" is as many as an
    estimate of the memory allows (at most 64 on the CPU, 256 on CUDA; ``batching.py`` has the rule). Either is halved
    where memory runs out. It is not part of the fingerprint: images depend on it up to rounding. ``options`` are those
    of the prior's loader (``load_dit``, ``load_stable_diffusion``, ``load_autoencoder``, ``load_pixel``).
    Raises UnknownNameError for an unknown name and PriorError for everything that is wrong with the rest."""
    loader, flags = PRIORS.load(name), PRIORS.entry(name).flags
    if flags.get("needs_path") and path is None:
        raise PriorError(f"the prior {name!r} needs path=: the folder or hub id of its pipeline")
    parameters = inspect.signature(loader).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    own = [key for key in parameters if key not in ("path", "device", "dtype", "batch_size")]
    for key in options:
        if key not in own and not takes_any:
            known = ", ".join(own) or "none"
            raise PriorError(f"the prior {name!r} has no option {key!r}{nearest(key, own)} (its options: {known})")
    for key in own:
        parameter = parameters[key]
        if parameter.default is parameter.empty and parameter.kind is parameter.KEYWORD_ONLY and key not in options:
            raise PriorError(f"the prior {name!r} needs the option {key!r}")
    return loader(path=path, device=device, dtype=dtype, batch_size=batch_size, **options)
