"""The YAML schema of a sweep. What is wrong is said in one sentence that names file, line, key and the mend.

Example::

    name: mine
    dataset: {name: digits}
    prior: {name: dit, train: digits}
    methods:
      - {name: ddoq, weighting: [uniform, counts, sqrt], strength: 0.3}
      - {name: random}
    ipc: [1, 10]
    clusters: [ipc, 20]
    students: [mlp, convnet3_w32]
    teacher: {student: convnet3_bn_w32, protocol: teacher_short}
    protocol: soft_stored_short
    seeds: 3

A list where a method's setting is a single value is varied by the sweep.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from .errors import ConfigError, nearest
from .record import prior_name


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Named(BaseModel):
    """A registered thing by name, with options that the thing itself checks."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    def options(self) -> dict[str, Any]:
        return {name: value for name, value in (self.model_extra or {}).items()}


def _name_only(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class DatasetConfig(_Named):
    """``name`` of a registered dataset and its options (path, root, image_size, ...)."""


class PriorConfig(_Named):
    """``name`` of a registered prior and the ``path`` (folder or hub id) it is loaded from, or ``train``: the recipe
    (name or YAML file) by which it is trained, once, on the training split. Other options go to its loader."""

    path: str | None = None
    train: str | None = None
    seed: int = 0

    @property
    def title(self) -> str:
        """The prior as rows and tables name it, without folders of this machine."""
        return prior_name(self.name, self.train, self.path)


class MethodConfig(_Named):
    """``name`` of a registered distiller, its settings, and ``clusters`` where they differ from the sweep's."""

    clusters: list[int | Literal["ipc"]] | None = None


class TeacherConfig(_Schema):
    """The network that gives soft labels: trained once on the training split, or read from ``weights``.

    ``weights`` is a file with a state dict of the architecture ``student`` for the dataset's classes in order, trained
    on ImageNet-normalised images; then ``protocol`` and ``seed`` say nothing.
    """

    student: str
    protocol: str = "teacher_short"
    weights: str | None = None
    seed: int = 0


def _share_of_gpus(value: float | None) -> float | None:
    if value is not None and value > 1 and value != int(value):
        raise ValueError("a share of one GPU, or a whole number of GPUs")
    return value


Cpus = Annotated[float, Field(gt=0)]
Gpus = Annotated[float, Field(ge=0), AfterValidator(_share_of_gpus)]
Gigabytes = Annotated[float, Field(gt=0)]
STAGES = ("encode", "quantise", "generate", "label", "train")


class StageResources(_Schema):
    """What one worker of a stage asks of Ray: CPUs (also its number of threads, rounded down, at least one), GPUs (a
    share, or whole ones) and ``memory_gb`` of main memory (GiB). What is left out is the common value."""

    cpus: Cpus | None = None
    gpus: Gpus | None = None
    memory_gb: Gigabytes | None = None


class StagesConfig(_Schema):
    """Resources by stage. ``encode`` also checks the images, ``quantise`` also assembles sets, ``train`` also trains
    prior and teacher."""

    encode: StageResources = StageResources()
    quantise: StageResources = StageResources()
    generate: StageResources = StageResources()
    label: StageResources = StageResources()
    train: StageResources = StageResources()


class ResourcesConfig(_Schema):
    """What one Ray worker asks for, in common and by stage. ``device: auto`` is CUDA where a worker has a share of a
    GPU; ``memory_gb`` is GiB (None: Ray does not reckon with it); ``max_concurrent`` limits the students in training.
    """

    cpus: Cpus = 1
    gpus: Gpus = 0
    memory_gb: Gigabytes | None = None
    max_concurrent: int | None = Field(None, ge=1)
    device: str = "auto"
    stages: StagesConfig = StagesConfig()

    def of(self, stage: str) -> StageResources:
        """Return what a worker of ``stage`` (one of ``STAGES``) asks for, the common values filled in."""
        own = getattr(self.stages, stage).model_dump(exclude_none=True)
        return StageResources(**{"cpus": self.cpus, "gpus": self.gpus, "memory_gb": self.memory_gb} | own)


def _seed_list(value: Any) -> Any:
    return list(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


class SweepConfig(_Schema):
    """One comparison: everything that its numbers depend on."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    notes: str = ""
    dataset: Annotated[DatasetConfig, BeforeValidator(_name_only)]
    prior: Annotated[PriorConfig, BeforeValidator(_name_only)] | None = None
    methods: list[Annotated[MethodConfig, BeforeValidator(_name_only)]] = Field(min_length=1)
    ipc: Annotated[list[Annotated[int, Field(ge=1)]], BeforeValidator(_as_list)] = Field(min_length=1)
    clusters: Annotated[list[Annotated[int, Field(ge=1)] | Literal["ipc"]], BeforeValidator(_as_list)] = ["ipc"]
    students: Annotated[list[str], BeforeValidator(_as_list)] = Field(min_length=1)
    teacher: TeacherConfig | None = None
    protocol: str
    seeds: Annotated[list[int], BeforeValidator(_seed_list)] = Field(min_length=1)
    full_data: bool = True
    """Whether every student is also trained on the whole training split: the ceiling, and at twice the steps (on
    validation) the proof that the protocol trains to convergence."""
    resources: ResourcesConfig = ResourcesConfig()
    output: str | None = None
    """The run's folder; default ``runs/<name>``."""
    store: str | None = None
    """Where shared artifacts are kept; default ``store`` beside the run's folder."""
    plugins: list[str] = []

    @field_validator("ipc", "clusters", "students", "seeds")
    @classmethod
    def _no_doubles(cls, values: list) -> list:
        doubles = sorted({str(value) for value in values if values.count(value) > 1})
        if doubles:
            raise ValueError(f"{', '.join(doubles)} is given twice; remove one")
        return values

    @property
    def output_folder(self) -> Path:
        return Path(self.output or f"runs/{self.name}")

    @property
    def store_folder(self) -> Path:
        return Path(self.store) if self.store else self.output_folder.parent / "store"


def load_config(source: str | Path, overrides: dict[str, Any] | None = None) -> SweepConfig:
    """Read a sweep's YAML: a file, or the name of one in ``benchmark_configs`` (``quickstart``).

    ``overrides`` are dotted keys and values (``{"dataset.path": "x.npz"}``). Raises ConfigError.
    """
    path = find_config(source)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file in UTF-8; give a YAML file") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: not valid YAML ({getattr(problem, 'problem', problem)})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a sweep is a mapping of keys (name, dataset, methods, ...)")
    double = _double_key(node)
    if double is not None:
        raise ConfigError(f"{path}:{double.start_mark.line + 1}: the key {double.value!r} is given twice; remove one")
    for dotted, value in (overrides or {}).items():
        _set(content, dotted, value)
    return valid(SweepConfig, content, path, node)


def valid(
    model: type[BaseModel], content: dict[str, Any], path: Path | str = "config", node: yaml.Node | None = None
) -> Any:
    """Return ``model(**content)``; ConfigError names the file, the line (where there is one) and the key."""
    try:
        return model(**content)
    except ValidationError as problem:
        raise ConfigError(_complaint(problem, path, node, model)) from None


def find_config(source: str | Path) -> Path:
    """Return the file of a config given by path or by the name of a packaged one; ConfigError if there is none."""
    path = Path(source)
    if path.is_file():
        return path
    packaged = {file.stem: file for file in packaged_configs()}
    if str(source) in packaged:
        return packaged[str(source)]
    raise ConfigError(
        f"there is no config {source}{nearest(str(source), packaged)}; give a YAML file or one of: "
        f"{', '.join(sorted(packaged))}"
    )


def packaged_configs() -> list[Path]:
    """Return the YAML files of ``benchmark_configs``: inside the package in a wheel, beside it in a checkout."""
    package = Path(str(resources.files(__package__)))
    folder = package / "benchmark_configs"
    folder = folder if folder.is_dir() else package.parent / "benchmark_configs"
    return sorted(folder.glob("*.yaml"))


def parse_value(text: str) -> Any:
    """Return the YAML value of a command line's ``key=value``."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _set(content: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        inner = content.get(parent)
        if isinstance(inner, str):  # the short form `dataset: digits`
            inner = {"name": inner}
        if inner is not None and not isinstance(inner, dict):
            raise ConfigError(f"{dotted}: {parent!r} has no keys to set one by one; set {parent}=... as a whole")
        content[parent] = inner = dict(inner or {})
        content = inner
    content[last] = value


def _complaint(problem: ValidationError, path: Path | str, node: yaml.Node | None, model: type[BaseModel]) -> str:
    first = min(problem.errors(), key=lambda error: error["type"] != "extra_forbidden")  # a misspelling comes first
    internal = ("function-", "list[", "constrained-", "literal[")  # pydantic's own steps on the way to the value
    location = [part for part in first["loc"] if not (isinstance(part, str) and part.startswith(internal))]
    where = f"{path}:{_line_of(location, node)}" if node is not None else str(path)
    key = ".".join(str(part) for part in location)
    if first["type"] == "extra_forbidden":
        fields = _fields_at(location[:-1], model)
        known = f"{nearest(str(location[-1]), fields)} (known: {', '.join(fields)})"
        return f"{where}: unknown key {key!r}{known}"
    if first["type"] == "missing":
        return f"{where}: the key {key!r} is missing; add it"
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {key}: {message[0].lower()}{message[1:]}, got {first.get('input')!r}"


def _line_of(location: list[str | int], node: yaml.Node) -> int:
    """Return the line, from 1, of the last part of ``location`` that stands in the file."""
    found, line = node, node.start_mark.line
    for part in location:
        step = _child(found, part)
        if step is None:
            break
        line, found = step
    return line + 1


def _child(node: yaml.Node, part: str | int) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return key.start_mark.line, value
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part].start_mark.line, node.value[part]
    return None


def _fields_at(location: list[str | int], model: type[BaseModel]) -> list[str]:
    inner = {"teacher": TeacherConfig, "resources": ResourcesConfig, "stages": StagesConfig}
    inner |= dict.fromkeys(STAGES, StageResources)
    return list((inner.get(str(location[-1]), model) if location else model).model_fields)


def _double_key(node: yaml.Node | None) -> yaml.Node | None:
    """Return the first mapping key that stands twice (YAML would silently take the last)."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen:
                return key
            seen.add(key.value)
            inner = _double_key(value)
            if inner is not None:
                return inner
    if isinstance(node, yaml.SequenceNode):
        return next((found for found in map(_double_key, node.value) if found is not None), None)
    return None
