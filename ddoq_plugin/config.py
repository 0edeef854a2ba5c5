"""The YAML schema of a sweep; ``benchmark_configs/quickstart.yaml`` is an example.

A list where a method's setting is a single value is varied by the sweep. ``extends: quickstart`` (or a file) takes the
keys of another config; ``protocol: {extends: hard_short, steps: 300}`` changes a protocol in its place."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from .errors import ConfigError, nearest
from .record import prior_name
from .yaml_files import Checked, Layers, read_layers, set_values, valid


class _Named(Checked):
    """A registered thing by name, with options that the thing itself checks."""

    model_config = ConfigDict(extra="allow")
    name: str

    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    def plain_options(self) -> dict[str, Any]:
        """Return the options as plain data for a key: names of mappings are texts there, as in JSON."""
        return self.model_dump(mode="json", include=set(self.model_extra or {}))


def name_only(value: Any) -> Any:
    """Return ``{"name": value}`` for a name; other values as they are."""
    return {"name": value} if isinstance(value, str) else value


def _seed_list(value: Any) -> Any:
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if not 1 <= value <= MOST_SEEDS:
        raise ValueError(f"1 to {MOST_SEEDS:,} seeds, or a list of them")
    return list(range(value))


def _is_protocol(value: Any) -> Any:
    if not isinstance(value, (str, dict)):
        raise ValueError("a protocol is a name, a YAML file or a mapping (extends: and the keys that differ)")
    return value


def _share_of_gpus(value: float | None) -> float | None:
    if value is not None and value > 1 and value != int(value):
        raise ValueError("a share of one GPU, or a whole number of GPUs")
    return value


def _no_doubles(values: list[Any]) -> list[Any]:
    doubles = sorted({str(value) for value in values if values.count(value) > 1})
    if doubles:
        raise ValueError(f"{', '.join(doubles)} is given twice; remove one")
    return values


STAGES = ("encode", "quantise", "generate", "label", "train")
MOST_SEEDS = 10_000
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Positive = Annotated[float, Field(gt=0, le=1_000_000)]
Gpus = Annotated[float, Field(ge=0, le=1_000_000), AfterValidator(_share_of_gpus)]
Named = BeforeValidator(name_only)
Listed = BeforeValidator(lambda value: value if isinstance(value, list) else [value])
Single = AfterValidator(_no_doubles)
ProtocolConfig = Annotated[Any, AfterValidator(_is_protocol)]
"""A protocol's name, its YAML file, or a mapping of its keys, those of ``extends`` where they are left out."""


class DatasetConfig(_Named):
    """``name`` of a registered dataset and its options (path, root, image_size, ...)."""


class PriorConfig(_Named):
    """``name`` of a registered prior and the ``path`` (folder or hub id) it is loaded from, or ``train``: the recipe
    (name or YAML file) by which it is trained, once, on the training split. Other options go to its loader."""

    path: str | None = None
    train: str | None = None
    seed: Seed = 0

    @property
    def title(self) -> str:
        """The prior as rows and tables name it, without folders of this machine."""
        return prior_name(self.name, self.train, self.path)


class MethodConfig(_Named):
    """``name`` of a registered distiller, its settings, ``ipc`` and ``clusters`` where they differ from the sweep's,
    and the ``label`` of its lines in tables, where the method's own would not tell two entries apart."""

    ipc: Annotated[list[Count], Single, Listed] | None = Field(None, min_length=1)
    clusters: Annotated[list[Count | Literal["ipc"]], Single, Listed] | None = Field(None, min_length=1)
    label: str | None = Field(None, pattern=r"^[\w+(=][\w .,+()=-]{0,59}$")


class TeacherConfig(Checked):
    """The network that gives soft labels: trained once on the training split, or read from ``weights``.

    ``weights`` is a file with a state dict of the architecture ``student`` for the dataset's classes in order, trained
    on ImageNet-normalised images; then ``protocol`` and ``seed`` say nothing."""

    student: str
    protocol: ProtocolConfig = "teacher_short"
    weights: str | None = None
    seed: Seed = 0


class StageResources(Checked):
    """What one worker of a stage asks of Ray: CPUs (also its number of threads, rounded down, at least one), GPUs (a
    share, or whole ones) and ``memory_gb`` of main memory (GiB). What is left out is the common value."""

    cpus: Positive | None = None
    gpus: Gpus | None = None
    memory_gb: Positive | None = None


class StagesConfig(Checked):
    """Resources by stage. ``encode`` also checks the images, ``quantise`` also assembles sets, ``train`` also trains
    prior and teacher."""

    encode: StageResources = StageResources()
    quantise: StageResources = StageResources()
    generate: StageResources = StageResources()
    label: StageResources = StageResources()
    train: StageResources = StageResources()


class ResourcesConfig(Checked):
    """What one Ray worker asks for, in common and by stage. ``device: auto`` is CUDA where a worker has a share of a
    GPU; ``memory_gb`` is GiB (None: Ray does not reckon with it); ``max_concurrent`` limits the students in training.
    """

    cpus: Positive = 1
    gpus: Gpus = 0
    memory_gb: Positive | None = None
    max_concurrent: Count | None = None
    device: str = "auto"
    stages: StagesConfig = StagesConfig()

    def of(self, stage: str) -> StageResources:
        """Return what a worker of ``stage`` (one of ``STAGES``) asks for, the common values filled in."""
        own = getattr(self.stages, stage).model_dump(exclude_none=True)
        return StageResources(**{"cpus": self.cpus, "gpus": self.gpus, "memory_gb": self.memory_gb} | own)


class SweepConfig(Checked):
    """One comparison: everything that its numbers depend on."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}$")
    notes: str = ""
    dataset: Annotated[DatasetConfig, Named]
    prior: Annotated[PriorConfig, Named] | None = None
    methods: list[Annotated[MethodConfig, Named]] = Field(min_length=1)
    ipc: Annotated[list[Count], Single, Listed] = Field(min_length=1)
    clusters: Annotated[list[Count | Literal["ipc"]], Single, Listed] = Field(["ipc"], min_length=1)
    students: Annotated[list[str], Single, Listed] = Field(min_length=1)
    teacher: TeacherConfig | None = None
    protocol: ProtocolConfig
    seeds: Annotated[list[Seed], Single, BeforeValidator(_seed_list)] = Field(min_length=1, max_length=MOST_SEEDS)
    full_data: bool = True
    """Whether every student is also trained on the whole training split: the ceiling, and at twice the steps (on
    validation) the proof that the protocol trains to convergence."""
    resources: ResourcesConfig = ResourcesConfig()
    output: str | None = None
    """The run's folder; default ``runs/<name>``."""
    store: str | None = None
    """Where shared artifacts are kept; default ``store`` beside the run's folder."""
    plugins: list[str] = []

    @property
    def output_folder(self) -> Path:
        return Path(self.output or f"runs/{self.name}").expanduser()

    @property
    def store_folder(self) -> Path:
        return Path(self.store).expanduser() if self.store else self.output_folder.parent / "store"


def load_config(source: str | Path, overrides: dict[str, Any] | None = None) -> SweepConfig:
    """Read a sweep's YAML, which may extend another: a file, or the name of one in ``benchmark_configs``.

    ``overrides`` are dotted keys and values (``{"dataset.path": "x.npz", "protocol.steps": 300}``). Raises ConfigError.
    """
    layers = config_layers(source)
    return valid(SweepConfig, set_values(layers.content, overrides or {}), layers)


def config_layers(source: str | Path) -> Layers:
    """Return what a config's file and its bases hold, and where; ConfigError if there is none."""
    packaged = {file.stem: file for file in packaged_configs()}
    path = Path(source) if Path(source).is_file() else packaged.get(str(source))
    if path is None:
        known = f"{nearest(str(source), packaged)}; give a YAML file or one of: {', '.join(sorted(packaged))}"
        raise ConfigError(f"there is no config {source}{known}")
    return read_layers(path, packaged)


def packaged_configs() -> list[Path]:
    """Return the YAML files of ``benchmark_configs``: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "benchmark_configs"
    folder = inside if inside.is_dir() else package.parent / "benchmark_configs"
    return sorted(folder.glob("*.yaml"))
