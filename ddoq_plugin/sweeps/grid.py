"""The grid of a config: which sets are distilled, and which rows (trained students) the run consists of.

Every set and row has a key made of all that its content depends on. The key's hash names it on disk: a row that is
there is finished, whatever happened to the process that wrote it."""

import functools
import itertools
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..config import MethodConfig, SweepConfig
from ..distiller import DistillContext, Distiller, make_distiller
from ..errors import ConfigError
from ..evaluation.evaluator import student_code
from ..registry import DISTILLERS
from ..store.artifacts import hash_key

MOST_ROWS = 1_000_000


@dataclass(frozen=True)
class SetSpec:
    """One distilled set to be made. ``clusters`` is None for a method without clusters."""

    method: str
    settings: dict[str, Any]
    label: str
    ipc: int
    clusters: int | None
    seed: int
    place: int | None = None  # of the method's line in its config

    @property
    def title(self) -> str:
        """A name for folders and messages."""
        clusters = "" if self.clusters is None else f"_k{self.clusters}"
        return f"{self.label.replace(' ', '_')}_ipc{self.ipc}{clusters}_seed{self.seed}"

    def distiller(self) -> Distiller:
        """Return the method with its settings, made once."""
        return self.asked[0]

    @functools.cached_property
    def asked(self) -> tuple[Distiller, int, int | None, int]:
        """The arguments of a context's ``set_key``, ``work_of`` and ``distilled``."""
        return make_distiller(self.method, self.settings), self.ipc, self.clusters, self.seed

    def __reduce__(self) -> tuple[Any, ...]:  # without the method, whose class another process may have to load first
        return SetSpec, (self.method, self.settings, self.label, self.ipc, self.clusters, self.seed, self.place)


@dataclass(frozen=True)
class RowSpec:
    """One row of the result: a student trained on a set, or (``set`` None) on all data for ``kind`` of run."""

    kind: str  # "distilled", "full_data" or "full_data_2x"
    student: str
    seed: int
    set: SetSpec | None = None

    def known(self) -> dict[str, Any]:
        """Return what a row says of itself before it is trained; see :func:`ddoq_plugin.record.make_row`."""
        about: dict[str, Any] = {"kind": self.kind, "student": self.student, "seed": self.seed}
        if self.set is None:
            return about | {"method": self.kind, "label": self.kind}
        spec = self.set
        about |= {name: getattr(spec, name) for name in ("method", "label", "place", "ipc", "clusters")}
        return about | {"settings": spec.distiller().config.model_dump(mode="json")}


@dataclass(frozen=True)
class Grid:
    """All sets and rows of a config, in a fixed order."""

    sets: list[SetSpec]
    rows: list[RowSpec]


def make_grid(config: SweepConfig) -> Grid:
    """Expand a config. Raises ConfigError for a method or setting that does not exist."""
    sets: list[SetSpec] = []
    rows_a_line = len(config.students) * len(config.seeds)
    sizes = sum(len(one.ipc or config.ipc) * len(one.clusters or config.clusters) for one in config.methods)
    if rows_a_line * sizes > MOST_ROWS:
        raise ConfigError(f"the config asks for more than {MOST_ROWS:,} rows; split it, or take fewer seeds")
    variants = [(method, *variant) for method in config.methods for variant in method_variants(method)]
    for place, (method, settings, label) in enumerate(variants):
        uses_clusters = make_distiller(method.name, settings).uses_clusters
        for ipc in method.ipc or config.ipc:
            asked = (method.clusters or config.clusters) if uses_clusters else [None]
            for clusters in dict.fromkeys(ipc if k == "ipc" else k for k in asked):
                sets += [SetSpec(method.name, settings, label, ipc, clusters, seed, place) for seed in config.seeds]
    by_label: dict[tuple, SetSpec] = {}
    for spec in sets:
        if by_label.setdefault((spec.label, spec.ipc, spec.clusters, spec.seed), spec) is not spec:
            raise ConfigError(
                f"two methods of the config are both called {spec.label!r}; give one a label:, or the "
                "differing setting as a list in one entry"
            )
    rows = [RowSpec("distilled", student, s.seed, s) for s in sets for student in config.students]
    if config.full_data:
        for kind in ("full_data", "full_data_2x"):
            rows += [RowSpec(kind, *pair) for pair in itertools.product(config.students, config.seeds)]
    return Grid(sets, rows)


def method_variants(config: MethodConfig) -> list[tuple[dict[str, Any], str]]:
    """Return (settings, label) for each combination of the settings that are given as lists."""
    given = config.options()
    varied = {name: value for name, value in given.items() if _is_varied(config.name, given, name)}
    fixed = {name: value for name, value in given.items() if name not in varied}
    variants = []
    for values in itertools.product(*varied.values()):
        settings = fixed | dict(zip(varied, values, strict=True))
        label = config.label or make_distiller(config.name, settings).label()
        extra = [f"{name}={settings[name]}" for name in varied if config.label or str(settings[name]) not in label]
        variants.append((settings, " ".join([label, *extra])))
    return variants


def row_key(spec: RowSpec, context: DistillContext, training_key: dict[str, Any]) -> str:
    """Return the name of a row's file; ``training_key`` holds the protocol, the teacher and the code that trains."""
    made_from = None if spec.set is None else context.set_key(*spec.set.asked)
    student = [spec.student, student_code(spec.student)]
    own = {"kind": spec.kind, "distilled": made_from, "student": student, "seed": spec.seed}
    return hash_key({**own, **training_key})[:20]


def _is_varied(name: str, given: dict[str, Any], key: str) -> bool:
    """A list is varied unless the setting itself takes a list."""
    if not isinstance(given[key], list):
        return False
    if not given[key]:
        raise ConfigError(f"the setting {key!r} of method {name!r} is an empty list; give at least one value")
    model = DISTILLERS.load(name).Config
    if key not in model.model_fields:
        make_distiller(name, {key: given[key][0]})  # raises, naming the setting and the nearest
    try:
        TypeAdapter(model.model_fields[key].annotation).validate_python(given[key])
    except ValidationError:
        return True
    return False
