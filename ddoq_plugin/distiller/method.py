"""What a method is written from: its settings, how latents become codebooks, and the class that it implements."""

from __future__ import annotations

import sysconfig
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import BaseModel, Field, ValidationError, create_model, model_validator

from ..errors import ConfigError, DDOQError, DistillError, explain
from ..registry import DISTILLERS
from ..yaml_files import Checked
from .work import Work

if TYPE_CHECKING:
    from ..distilled_set import DistilledSet
    from .context import DistillContext


OWN = ("ddoq_plugin.", "ddoq_baselines.")  # packages whose exceptions are bugs, and keep their tracebacks


class DistillerConfig(Checked):
    """Base of a method's settings: YAML, command line and Python share its fields; unknown ones are errors.

    stored_size: pixels a side to which a set's images are brought before they are kept (None: as they are, of the
    dataset's size). D4M's code keeps 224 of the 512 pixels it generates (suduo94/D4M, distillation/gen_syn_image.py),
    Minimax's all 256 of DiT (vimar-gu/MinimaxDiffusion, sample.py)."""

    stored_size: int | None = Field(None, ge=1, le=16_384)

    def at(self, ipc: int) -> Any:
        """Return the settings of one IPC: a number is taken from those that are given by IPC, ``{1: 50, 10: 30}``.

        Raises DistillError where such a setting has no number for it."""
        own = {
            name: value
            for name, value in self
            if isinstance(value, dict) and value and all(type(key) is int for key in value)
        }
        for name, value in own.items():
            if ipc not in value:
                raise DistillError(
                    f"the setting {name!r} has no number for IPC {ipc} (it has some for {', '.join(map(str, value))}); "
                    "add one, or give one number for all"
                )
        return self.model_copy(update={name: value[ipc] for name, value in own.items()})

    @classmethod
    def preset(cls, *, fixed: Mapping[str, Any] | None = None, **defaults: Any) -> type[Self]:
        """Return the same settings with other defaults; those of ``fixed`` take no other value."""
        fields: dict[str, Any] = {name: (cls.model_fields[name].annotation, value) for name, value in defaults.items()}
        fields |= {name: (Literal[value], value) for name, value in (fixed or {}).items()}
        made: type[Self] = create_model(cls.__name__, __base__=cls, __doc__=cls.__doc__, **fields)
        return made


class CodebookOptions(Checked):
    """How the latents of a class become a codebook; part of its key.

    space: ``latent`` (the prior's latents), ``noise`` (their DDIM inversions) or ``pixel`` (the images themselves).
    encoding: mode or one sample of the encoder's posterior. clustering: ``lloyd`` (k-means to a local optimum),
    ``minibatch`` (one pass of CLVQ) or ``d4m`` (the pass of D4M's code, ``km_expand * K`` latents an update).
    masses: ``voronoi`` or ``balanced`` (equal masses by optimal transport)."""

    space: Literal["latent", "noise", "pixel"] = "latent"
    encoding: Literal["mode", "sample"] = "mode"
    clustering: Literal["lloyd", "minibatch", "d4m"] = "lloyd"
    masses: Literal["voronoi", "balanced"] = "voronoi"
    km_expand: int = Field(1, ge=1, le=10_000)
    inversion_steps: int = Field(31, ge=1, le=1000)  # D3HR's code, lin-zhao-resoLve/D3HR

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


class Distiller(ABC):
    """A dataset-distillation method. Subclass it, register it, and it is in the tables.

    The flags say what a method needs and does: ``makes_images`` (False: it picks real ones), ``uses_clusters`` (the
    number of clusters K is a setting of its own), ``uses_weights``, ``needs_prior``, ``uses_sampler`` (it draws real
    images by ``context.real_batch``), ``conditions`` (it goes on from the images of ``context.given``), and
    ``reference`` (others are tested against it). ``weight_settings`` names the settings that change nothing but the
    weights. ``quick`` are settings with which the method takes a moment, for :mod:`ddoq_plugin.testing`."""

    name: ClassVar[str] = ""  # the registry's name, set when the method is made by name
    makes_images: ClassVar[bool] = True
    uses_clusters: ClassVar[bool] = False
    uses_weights: ClassVar[bool] = False
    needs_prior: ClassVar[bool] = False
    uses_sampler: ClassVar[bool] = False
    conditions: ClassVar[bool] = False
    reference: ClassVar[bool] = False
    weight_settings: ClassVar[tuple[str, ...]] = ()
    quick: ClassVar[Mapping[str, Any]] = {}
    Config: ClassVar[type[DistillerConfig]] = DistillerConfig

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if not (isinstance(cls.Config, type) and issubclass(cls.Config, DistillerConfig)):
            raise DistillError(
                f"{cls.__name__}.Config has not the settings of every method; derive it from DistillerConfig"
            )

    def __init__(self, **settings: Any) -> None:
        try:
            self.config = self.Config(**settings)
        except ValidationError as problem:
            raise ConfigError(f"{type(self).__name__}: {explain(problem, self.Config, 'setting')}") from None

    @abstractmethod
    def distill(self, context: DistillContext, ipc: int, *, clusters: int | None = None, seed: int = 0) -> DistilledSet:
        """Return a set of ``ipc`` images a class.

        ``clusters`` is K, the codebook's size (None: ``ipc``); a method without clusters ignores it. The same
        arguments and context give the same bits. Raises DistillError where the set cannot be made."""

    def parts(self) -> tuple[Distiller, ...]:
        """Return the methods that this one wraps; keys, checks and tables include them."""
        return ()

    def work(self, context: DistillContext, ipc: int, clusters: int | None, seed: int) -> Iterable[Work]:
        """Yield the work that a set consists of, without doing any: a sweep spreads it, a plan prices it.

        Default: the set as one piece, which continues from its checkpoints (``context.steps``) when it was killed.
        Say its figures with ``context.set_work(self, ..., effort=Effort(...))``. What is worth sharing between sets or
        spreading over workers is a need of its own: ``context.encode_work``, ``codebook_work``, ``artifact_work``,
        ``pushforward(...).works``. ``distill`` makes what nobody made before, so that the set is the same to the bit.
        """
        yield context.set_work(self, ipc, clusters, seed)

    def inputs(self, ipc: int, seed: int) -> Any:
        """Return what a set depends on beside data, prior, settings and code, as plain data: it goes into the key.

        Such as the hash of a file that the method reads. Raises DistillError where there is no such file."""
        return None

    def label(self) -> str:
        """Return the method's short name in tables; settings that a sweep varies are added by the sweep."""
        return self.name or type(self).__name__

    def check(self, context: DistillContext, ipc: int, clusters: int | None) -> None:
        """Raise DistillError or PriorError where ``distill`` with these arguments must fail; called before any work."""
        if ipc < 1 or (clusters is not None and clusters < 1):
            raise DistillError(f"ipc and clusters must be at least 1; got ipc {ipc}, clusters {clusters}")
        if self.needs_prior and not context.has_prior:
            raise DistillError(f"the method {self.label()!r} needs a prior; name one in the configuration (prior: ...)")
        stored, size = self.config.stored_size, context.data.image_size
        if stored is not None and stored > size:
            raise DistillError(
                f"{self.label()!r}: stored_size {stored} is larger than the images, which are made at {size} px; lower "
                "it, or leave it out"
            )
        if getattr(self.config, "space", None) == "noise" and not context.can_denoise:
            raise DistillError(f"{self.label()!r}: space: noise needs a diffusion prior to invert images; name one")
        needed, what = (clusters or ipc, "clusters") if self.uses_clusters else (0, "")
        if not self.makes_images and ipc > needed:
            needed, what = ipc, "images"
        context.check_class_sizes(needed, what, self.label())


@contextmanager
def blamed(method: Distiller) -> Iterator[None]:
    """Turn a plugin's exception into a DistillError with method, file and line; ``frames`` of it are the user's own.

    Methods of this package keep their tracebacks: these are our bugs."""
    try:
        yield
    except (DDOQError, OSError, MemoryError):
        raise
    except Exception as problem:
        frames = [] if type(method).__module__.startswith(OWN) else own_frames(problem)
        if not frames:
            raise
        last, text = frames[-1], " ".join(str(problem).split())
        where = f"{Path(last.filename).name}, line {last.lineno}"
        error = DistillError(f"the method {method.label()!r} failed: {type(problem).__name__}: {text} ({where})")
        error.frames = [line.rstrip() for line in traceback.format_list(frames)]  # type: ignore[attr-defined]
        raise error from problem


def own_frames(problem: BaseException) -> list[traceback.FrameSummary]:
    """Return the frames of a traceback that are neither this package's nor a library's."""
    libraries = [
        str(Path(__file__).parents[1]),
        *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")),
    ]
    found = traceback.extract_tb(problem.__traceback__)
    return [frame for frame in found if not frame.filename.startswith((*libraries, "<frozen"))]


def check_made(method: Distiller, made: object, context: DistillContext, ipc: int) -> DistilledSet:
    """Return what ``distill`` returned; DistillError where it is no set of ``ipc`` images of every class."""
    from ..distilled_set import DistilledSet

    if not isinstance(made, DistilledSet):
        raise DistillError(f"{method.label()!r} returned {type(made).__name__}; distill must return a DistilledSet")
    if made.class_names != tuple(context.class_names):
        raise DistillError(f"{method.label()!r} returned other classes than the data has; keep their names and order")
    counts, (height, width) = made.labels.bincount().tolist(), made.images.shape[-2:]
    for name, count in zip(made.class_names, counts, strict=True):
        if count != ipc:
            raise DistillError(f"{method.label()!r} returned {count} images of class {name!r} and IPC is {ipc}")
    if height != width:
        raise DistillError(f"{method.label()!r} returned images of {width}x{height} pixels; they must be square")
    return made


def make_distiller(name: str, settings: dict[str, Any]) -> Distiller:
    """Return the registered method ``name`` with its settings; ConfigError or UnknownNameError where they are wrong."""
    found = DISTILLERS.load(name)
    if not (isinstance(found, type) and issubclass(found, Distiller)):
        raise ConfigError(f"the distiller {name!r} is {found!r}; register a subclass of ddoq_plugin.Distiller")
    method = found(**settings)
    method.name = name  # type: ignore[misc]  # an instance attribute over the class's default
    return method
