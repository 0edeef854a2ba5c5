"""``ddoq ddranking``: DD-Ranking's scores of sets on the command line."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

SHOWN = (
    "label", "ipc", "weights", "evaluator", "student", "seed", "evaluation", "full_hard", "set_hard", "set_soft",
    "random_soft", "set_augmented", "random_augmented", "set_plain", "random_plain", "lrs", "lrs_ddranking", "ars",
    "ars_ddranking", "seconds",
)  # fmt: skip

WORK = Path("runs/ddranking")
Sets = Annotated[list[Path], typer.Argument(metavar="SET...", help="Distilled sets, or folders of class folders.")]
Data = Annotated[
    str, typer.Option(help="Dataset: a name, folder:PATH, npz:PATH, or ddranking:NAME with --data-option root=PATH.")
]
DataOption = Annotated[list[str], typer.Option("--data-option", help="key=value for the dataset's loader.")]
Settings = Annotated[list[str], typer.Option("--set", help="key=value: change a setting of the preset.")]
Plugin = Annotated[list[Path], typer.Option(help="A Python file that registers datasets or students.")]


def ddranking(
    folders: Sets,
    metric: Annotated[list[str], typer.Option(help="lrs or ars; repeat for both.")] = ["lrs"],  # noqa: B006
    student: Annotated[str, typer.Option(help="DD-Ranking's name of a model (own: any student).")] = "ConvNet-3",
    teacher: Annotated[str | None, typer.Option(help="The teacher's architecture; default: the student's.")] = None,
    data: Data = "digits",
    preset: Annotated[str, typer.Option(help="Settings: leaderboard, or short (minutes on a CPU).")] = "leaderboard",
    set_: Settings = [],  # noqa: B006
    evaluator: Annotated[str, typer.Option(help="ddranking (the PyPI package), own (our loop) or both.")] = "ddranking",
    seed: int = 0,
    csv: Annotated[Path | None, typer.Option(help="Also write the rows here.")] = None,
    data_option: DataOption = [],  # noqa: B006
    work: Annotated[Path, typer.Option(help="Folder of exported data, teachers and logs.")] = WORK,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    plugin: Plugin = [],  # noqa: B006
) -> None:
    """Score distilled sets with DD-Ranking's own evaluators (LRS, ARS)."""
    import pandas as pd

    from ..distilled_set import DistilledSet
    from ..outputs import check_file, writing
    from ..progress import say_notes
    from ..registry import load_plugin
    from ..yaml_files import parse_pairs
    from .settings import host_settings

    for path in plugin:
        load_plugin(path)
    csv = None if csv is None else check_file(csv, "the CSV file")
    settings = host_settings(preset, **parse_pairs(set_))
    dataset = _dataset(data, parse_pairs(data_option))
    names, wnids = getattr(dataset, "class_names", None), getattr(dataset, "wnids", None)
    labels = zip(_labels(folders), folders, strict=True)
    sets = {label: DistilledSet.load(path, names, wnids=wnids) for label, path in labels}
    say_notes(note for one in (dataset, *sets.values()) for note in _notes(one))
    shared = {"teacher": teacher, "settings": settings, "seed": seed, "device": device, "work_folder": work}
    rows = pd.DataFrame(_score(evaluator, sets, dataset, list(dict.fromkeys(metric)), student, shared))
    for _, part in rows.groupby(["evaluator", "metric"], sort=False):
        shown = part[[column for column in SHOWN if column in part and part[column].notna().any()]]
        typer.echo(shown.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
        typer.echo("")
    if csv is not None:
        with writing(csv, "the CSV file"):
            rows.to_csv(csv, index=False)
    units = "accuracies in percent; lrs and ars from fractions, ..._ddranking as the package prints them"
    typer.echo(f"{units}; protocol {rows['protocol'].iloc[0]}")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("ddranking")(ddranking)


def _score(
    evaluator: str, sets: dict[str, Any], dataset: Any, metrics: list[Any], student: str, shared: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return the rows of the evaluators that were asked for."""
    from ..errors import EvaluationError
    from .exports import HostData

    if evaluator not in ("ddranking", "own", "both"):
        raise EvaluationError(f"there is no evaluator {evaluator!r}; use ddranking, own or both")
    rows: list[Any] = []
    if evaluator != "own":
        from .ddranking import score_with_ddranking

        for metric in metrics:
            rows += score_with_ddranking(sets, dataset, metric=metric, student=student, **shared).to_dict("records")
    if evaluator != "ddranking":
        from .own_evaluator import own_scores

        if isinstance(dataset, HostData):
            raise EvaluationError("our own evaluation needs a dataset of this package; drop the prefix ddranking:")
        shared = shared | {"teacher": shared["teacher"] and _own_name(shared["teacher"])}
        rows += own_scores(sets, dataset, metrics=metrics, student=_own_name(student), **shared).to_dict("records")
    return rows


def _notes(one: Any) -> Sequence[str]:
    """Return how a dataset or a set was read."""
    return one.provenance.get("notes", ()) if hasattr(one, "provenance") else getattr(one, "notes", ())


def _own_name(name: str) -> str:
    """Return the registered student of a name: ours where there is one, otherwise DD-Ranking's."""
    from ..registry import STUDENTS
    from .networks import PREFIX

    known = name in STUDENTS or name.startswith((PREFIX, "timm:", "torchvision:"))
    return name if known else PREFIX + name


def _dataset(name: str, options: dict[str, Any]) -> Any:
    from ..data import load_data
    from ..errors import DataError
    from .exports import own_data

    if not name.startswith("ddranking:"):
        data = load_data(name, **options)
        data.check()
        return data
    root = options.get("root", options.get("path"))
    if root is None:
        raise DataError(f"{name} needs the folder of its files: --data-option root=PATH")
    return own_data(name.removeprefix("ddranking:"), str(root))


def _labels(folders: list[Path]) -> list[str]:
    """Return the folders' names (of a link its own, not its target's), or their paths where names are not different."""
    names = [Path(os.path.abspath(folder)).name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]
