"""The recipe of an embedded prior: every number of its training, as a YAML file with its source."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from ..errors import PriorError, explain, nearest
from ..yaml_files import Checked

RECIPE_FOLDER = Path(__file__).parent / "recipes"

Count = Annotated[int, Field(ge=1, le=100_000_000)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
NonNegative = Annotated[float, Field(ge=0, le=1e6)]


class AutoencoderRecipe(Checked):
    """The auto-encoder (``diffusers.AutoencoderKL``) and its training.

    ``channels`` are the widths of its levels, finest first: every level but the last halves the resolution. The loss
    is the mean squared error of images in [-1, 1] plus ``kl_weight`` times the KL divergence to N(0, 1), both as means
    over elements. AdamW; the rate rises linearly over ``warmup`` of the steps and falls to zero by a cosine."""

    channels: tuple[Count, ...] = Field(min_length=1)
    latent_channels: Count = 4
    layers_per_block: Count = 1
    mid_attention: bool = False
    norm_groups: Count = 8
    steps: Count
    batch_size: Count
    learning_rate: Positive
    weight_decay: NonNegative = 0.0
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    kl_weight: NonNegative

    @property
    def downsampling(self) -> int:
        """Side of an image over side of its latent."""
        return 2 ** (len(self.channels) - 1)

    @model_validator(mode="after")
    def _groups_divide(self) -> AutoencoderRecipe:
        if wrong := [width for width in self.channels if width % self.norm_groups]:
            raise ValueError(f"channels {wrong} are not multiples of norm_groups {self.norm_groups}")
        return self


class DenoiserRecipe(Checked):
    """The denoiser (``diffusers.DiTTransformer2DModel``), its noise schedule and its training.

    ``width`` is the token dimension. A label is dropped (replaced by the null class) with probability
    ``label_dropout``, for classifier-free guidance. The weights that are saved are the running mean with ``ema_decay``.
    """

    patch_size: Count = 1
    width: Count
    layers: Count
    heads: Count
    prediction: Literal["epsilon", "v_prediction"] = "epsilon"
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"
    beta_start: Positive = 0.00085
    beta_end: Positive = 0.012
    steps: Count
    batch_size: Count
    learning_rate: Positive
    weight_decay: NonNegative = 0.0
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    label_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.995

    @model_validator(mode="after")
    def _heads_divide(self) -> DenoiserRecipe:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class PriorRecipe(Checked):
    """Every number of an embedded prior's training. ``source`` says where they come from.

    ``image_size`` (pixels a side) is the size that the recipe was made for; None takes any size that the auto-encoder
    can halve."""

    source: str
    image_size: Count | None = None
    autoencoder: AutoencoderRecipe
    denoiser: DenoiserRecipe

    def latent_size(self, image_size: int) -> int:
        """Return the side of a latent for images of ``image_size`` pixels; PriorError where the sizes do not fit."""
        if self.image_size not in (None, image_size):
            raise PriorError(
                f"the recipe is for images of {self.image_size} pixels and the data has {image_size}: load the data "
                f"with image_size={self.image_size} or take another recipe"
            )
        step = self.autoencoder.downsampling * self.denoiser.patch_size
        if image_size % step:
            raise PriorError(
                f"images of {image_size} pixels cannot be halved and cut into patches as the recipe says: load the "
                f"data with an image_size that is a multiple of {step}"
            )
        return image_size // self.autoencoder.downsampling


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPE_FOLDER.glob("*.yaml"))


def load_recipe(name: str | Path) -> PriorRecipe:
    """Return a recipe by its name (``recipe_names()``) or from a YAML file; PriorError says what is wrong with it."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = RECIPE_FOLDER / f"{name}.yaml"
        if not path.is_file():
            known = recipe_names()
            raise PriorError(
                f"unknown prior recipe {str(name)!r}{nearest(str(name), known)} "
                f"(known: {', '.join(known)}; or the path of a .yaml file)"
            )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise PriorError(f"the recipe {path} cannot be read ({problem.strerror}): give an existing YAML file") from None
    except yaml.YAMLError as problem:
        raise PriorError(f"the recipe {path} is not YAML: {problem}") from None
    try:
        return PriorRecipe.model_validate(content)
    except ValidationError as problem:
        raise PriorError(f"the recipe {path}: {explain(problem, PriorRecipe)}") from None
