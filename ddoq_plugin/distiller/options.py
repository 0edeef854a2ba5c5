"""Settings of methods: the base of their models, and how latents become codebooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DistillerConfig(_Settings):
    """Base of a method's settings: YAML, command line and Python share its fields; unknown ones are errors.

    stored_size: pixels a side to which a set's images are brought before they are kept (None: as they are, of the
    dataset's size). D4M's code keeps 224 of the 512 pixels it generates (suduo94/D4M, distillation/gen_syn_image.py),
    Minimax's all 256 of DiT (vimar-gu/MinimaxDiffusion, sample.py).
    """

    stored_size: int | None = Field(None, ge=1)

    @classmethod
    def preset(cls, *, fixed: Mapping[str, Any] | None = None, **defaults: Any) -> type[Self]:
        """Return the same settings with other defaults; those of ``fixed`` take no other value."""
        fields: dict[str, Any] = {name: (cls.model_fields[name].annotation, value) for name, value in defaults.items()}
        fields |= {name: (Literal[value], value) for name, value in (fixed or {}).items()}
        made: type[Self] = create_model(cls.__name__, __base__=cls, __doc__=cls.__doc__, **fields)
        return made


class CodebookOptions(_Settings):
    """How the latents of a class become a codebook; part of its key.

    space: ``latent`` (the prior's latents), ``noise`` (their DDIM inversions) or ``pixel`` (the images themselves).
    encoding: mode or one sample of the encoder's posterior. clustering: ``lloyd`` (k-means to a local optimum),
    ``minibatch`` (one pass of CLVQ) or ``d4m`` (the pass of D4M's code, ``km_expand * K`` latents an update).
    masses: ``voronoi`` or ``balanced`` (equal masses by optimal transport).
    """

    space: Literal["latent", "noise", "pixel"] = "latent"
    encoding: Literal["mode", "sample"] = "mode"
    clustering: Literal["lloyd", "minibatch", "d4m"] = "lloyd"
    masses: Literal["voronoi", "balanced"] = "voronoi"
    km_expand: int = Field(1, ge=1)
    inversion_steps: int = Field(31, ge=1)  # D3HR's code, lin-zhao-resoLve/D3HR

    @classmethod
    def of(cls, settings: BaseModel) -> CodebookOptions:
        """Return the part of a method's settings that are these options."""
        return cls(**{name: getattr(settings, name) for name in cls.model_fields})

    def measured(self) -> CodebookOptions:
        """Return the options of the latents that W2 is measured against: the mode, so that it is one for all methods
        of a space, however they encode."""
        return self.model_copy(update={"encoding": "mode"})

    @model_validator(mode="after")
    def _balanced_from_lloyd(self) -> CodebookOptions:
        if self.masses == "balanced" and self.clustering != "lloyd":
            raise ValueError("balanced masses start from Lloyd's codebook; set clustering: lloyd")
        return self
