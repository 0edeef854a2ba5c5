"""``ddoq``: list, show, train a prior, distil, import, evaluate, plan, sweep, verify, report.

Everything heavy is imported by the command that needs it, so that ``--help`` answers at once."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .hosts.command import register as register_ddranking

app = typer.Typer(name="ddoq", no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
Plugin = Annotated[list[Path], typer.Option(help="A Python file that registers methods, datasets, priors or students.")]
Data = Annotated[str, typer.Option(help="Dataset: a name, folder:PATH or npz:PATH.")]
DataOption = Annotated[list[str], typer.Option("--data-option", help="key=value for the dataset's loader.")]
Settings = Annotated[list[str], typer.Option("--set", help="key=value: a setting of the method or of the config.")]
StoreOption = Annotated[Path, typer.Option(help="Folder of shared artifacts (priors, latents, teachers, sets).")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Config = Annotated[str, typer.Argument(help="A sweep's YAML file, or the name of a packaged one (see ddoq list).")]
Kind = Annotated[str | None, typer.Option(help="set, run, protocol, config or method, where a name is both.")]
STORE = Path("runs/store")


def _version(wanted: bool) -> None:
    if wanted:
        from . import __version__
        from .store.provenance import commit

        found = commit()  # of an installed wheel, its version
        typer.echo(f"ddoq {__version__}" + (f", commit {found}" if " " not in found else ""))
        raise typer.Exit()


Version = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Version, commit.")]


@app.callback()
def options(version: Version = False) -> None:
    """DDOQ and its baselines: distil datasets, train students on them, compare them in tables."""


@app.command("list")
def list_entries(
    name: Annotated[str | None, typer.Argument(help="A method, to see its settings; default: everything.")] = None,
    settings: Annotated[bool, typer.Option("--settings", help="Show the method's settings.")] = False,
    plugin: Plugin = [],  # noqa: B006  (typer copies it)
) -> None:
    """Show every registered distiller, dataset, prior and student, the protocols, recipes and packaged configs."""
    from .errors import ConfigError
    from .show import listing, method_view

    _load(plugin)
    if settings and name is None:
        raise ConfigError("--settings shows those of one method; name the method too")
    typer.echo(listing() if name is None else method_view(name))


@app.command()
def show(
    what: Annotated[str, typer.Argument(help="Folder of a set or run; name or file of a protocol or config; method.")],
    kind: Kind = None,
    set_: Settings = [],  # noqa: B006
    plugin: Plugin = [],  # noqa: B006
) -> None:
    """Show a set, a run, a protocol, a config or a method; --set changes a protocol or a config first."""
    from .show import show as view

    _load(plugin)
    typer.echo(view(what, kind, _pairs(set_)))


@app.command()
def verify(run: Annotated[Path, typer.Argument(help="A run's folder.")]) -> None:
    """Check the rows, sets and stored artifacts of a run against their hashes (status 1 where one is not right)."""
    from .sweeps import verify_run

    found = verify_run(run)
    counts = ", ".join(f"{count} {status}" for status, count in found.rows.items()) or "none"
    whole = sum(found.artifacts.values())
    typer.echo(f"in order: rows: {counts}; sets that fit their rows: {found.sets}; stored artifacts: {whole}")
    for text in found.unchecked:
        typer.echo(f"not checked: {text}")
    for problem in found.problems:
        typer.echo(f"problem: {problem}", err=True)
    if found.problems:
        raise typer.Exit(1)


@app.command("train-prior")
def train_prior_command(
    out: Annotated[Path, typer.Argument(help="Folder for the prior, a diffusers DiTPipeline.")],
    data: Data = "digits",
    recipe: Annotated[str, typer.Option(help="Recipe: a name or a YAML file.")] = "digits",
    seed: int = 0,
    data_option: DataOption = [],  # noqa: B006
    device: Device = "cpu",
    plugin: Plugin = [],  # noqa: B006
) -> None:
    """Train a small class-conditional diffusion prior on a dataset's training split. The same command resumes."""
    from .data import load_data
    from .outputs import check_place, writing
    from .priors import load_recipe, train_prior

    _load(plugin)
    out = out.expanduser()
    check_place(out, "the folder of the prior")
    dataset, settings = load_data(data, **_pairs(data_option)), load_recipe(recipe)
    settings.latent_size(dataset.image_size)
    dataset.check()
    with writing(out, "the folder of the prior"):
        train_prior(dataset, out, settings, seed, progress=True, device=device)
    typer.echo(f"the prior is in {out}; use it with --prior dit --prior-path {out}")


@app.command()
def distill(
    method: Annotated[str, typer.Argument(help="A registered distiller (see ddoq list).")],
    out: Annotated[Path, typer.Argument(help="New folder for the distilled set.")],
    ipc: Annotated[int, typer.Option(help="Images per class.")],
    data: Data = "digits",
    clusters: Annotated[int | None, typer.Option(help="Clusters K a class; default: ipc.")] = None,
    prior: Annotated[str | None, typer.Option(help="A registered prior.")] = None,
    prior_path: Annotated[str | None, typer.Option(help="The prior's folder or hub id.")] = None,
    prior_train: Annotated[str | None, typer.Option(help="Recipe by which the prior is trained, once.")] = None,
    seed: int = 0,
    set_: Settings = [],  # noqa: B006
    data_option: DataOption = [],  # noqa: B006
    store: StoreOption = STORE,
    device: Device = "cpu",
    plugin: Plugin = [],  # noqa: B006
) -> None:
    """Distil a dataset: write images with labels and weights to a folder."""
    from .api import distill as run
    from .data.image_tree import shown
    from .errors import ConfigError, DataError
    from .outputs import check_folder

    _load(plugin)
    out = out.expanduser()
    if out.is_file() or (out.exists() and any(out.iterdir())):
        raise DataError(f"{shown(out)} is a file or a folder that is not empty; give a new folder")
    check_folder(out.parent, "the folder of OUT,")
    wanted = None if prior is None else {"name": prior, "path": prior_path, "train": prior_train}
    shared: dict[str, Any] = {"dataset": {"name": data, **_pairs(data_option)}, "store": store, "device": device}
    settings = _pairs(set_)
    if own := sorted(settings.keys() & {"ipc", "clusters", "seed", "prior", "method", "progress", *shared}):
        raise ConfigError(f"--set {own[0]}: this is no setting of the method; use --{own[0]} for it")
    made = run(method, prior=wanted, ipc=ipc, clusters=clusters, seed=seed, **shared, **settings)
    made.save(out)
    found = made.provenance["stats"]
    stats = [f"{name} {value:.4g}" for name, value in found.items() if isinstance(value, float)]
    stats += [f"W2 in {found['space']} space"] if found.get("w2_used") is not None and found.get("space") else []
    said = f" ({', '.join(stats)})" if stats else ""
    typer.echo(f"{len(made)} images of {made.num_classes} classes in {shown(out)}{said}")


@app.command()
def evaluate(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="SET...", help="Distilled sets, or any folders of class folders with images."),
    ],
    data: Data = "digits",
    student: Annotated[list[str], typer.Option(help="A student; repeat for several.")] = ["convnet3_w32"],  # noqa: B006
    protocol: Annotated[str, typer.Option(help="Protocol: a name or a YAML file.")] = "soft_stored_short",
    teacher: Annotated[str, typer.Option(help="The teacher's architecture (soft labels).")] = "convnet3_bn_w32",
    seeds: Annotated[int, typer.Option(help="Students trained per architecture.")] = 1,
    set_: Annotated[list[str], typer.Option("--set", help="protocol.KEY=value or teacher.KEY=value.")] = [],  # noqa: B006
    csv: Annotated[Path | None, typer.Option(help="Also write the rows here.")] = None,
    data_option: DataOption = [],  # noqa: B006
    store: StoreOption = STORE,
    device: Device = "cpu",
    plugin: Plugin = [],  # noqa: B006
) -> None:
    """Train students on sets and print their accuracy on the test split, a line each set."""
    from .api import evaluate as run
    from .errors import ConfigError
    from .outputs import check_file, writing
    from .report import cross_model_table, format_table
    from .yaml_files import set_values

    _load(plugin)
    csv = None if csv is None else check_file(csv, "the CSV file")
    asked = set_values({"protocol": protocol, "teacher": {"student": teacher}}, _pairs(set_))
    if len(asked) > 2:
        other = list(asked)[2]
        raise ConfigError(f"--set {other}: here it changes protocol.KEY and teacher.KEY alone; use one of them")
    shared: dict[str, Any] = {"dataset": {"name": data, **_pairs(data_option)}, "store": store, "device": device}
    frame = run(folders, students=student, seeds=seeds, **asked, **shared)
    typer.echo(format_table(cross_model_table(frame), style="plain"))
    if csv is not None:
        with writing(csv, "the CSV file"):
            frame.to_csv(csv, index=False)


@app.command("import")
def import_command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="The published files, or their folder.")],
    layout: Annotated[str, typer.Option(help="dc, mtt, datm, frepo, rfad, rded or srell.")],
    out: Annotated[Path, typer.Option(help="New folder for the set.")],
    data: Data = "digits",
    space: Annotated[str | None, typer.Option(help="pixels, standardised or zca, where the layout asks.")] = None,
    run: Annotated[int, typer.Option(help="Which of several sets in a file (dc).")] = 0,
    mosaic: Annotated[int, typer.Option(help="2 where an image holds four (IDM).")] = 1,
    label: Annotated[str | None, typer.Option(help="The set's name in tables.")] = None,
    data_option: DataOption = [],  # noqa: B006
    plugin: Plugin = [],  # noqa: B006
) -> None:
    """Bring a published set into a folder for evaluate, sweep (method set) and ddranking."""
    from .data import load_data
    from .data.image_tree import shown
    from .outputs import check_place
    from .set_import import import_set

    _load(plugin)
    out = out.expanduser()
    check_place(out, "the folder of the set")
    dataset = load_data(data, **_pairs(data_option))
    made = import_set(files, layout, dataset, space=space, run=run, mosaic=mosaic, label=label)
    made.save(out)
    for note in made.provenance["notes"]:
        typer.echo(f"note: {note}")
    typer.echo(f"{len(made)} images of {made.num_classes} classes in {shown(out)}")
    typer.echo(f"scored as its authors do: ddoq evaluate {shown(out)} --protocol {made.provenance['protocol']}")


@app.command()
def sweep(
    config: Config,
    set_: Settings = [],  # noqa: B006
    address: Annotated[str | None, typer.Option(help="A Ray cluster's address; default: this machine.")] = None,
    local: Annotated[bool, typer.Option("--local", help="Run in this process, without Ray; the same rows.")] = False,
    plugin: Plugin = [],  # noqa: B006
) -> None:
    """Run a comparison, or what is missing of it, and write its report. The same command resumes after any stop."""
    from .report import write_run_report
    from .sweeps import sweep as run

    result = run(_settings(config, set_, plugin), address=address, local=local)
    typer.echo(write_run_report(result.folder, say=typer.echo))
    if result.failed:
        for error in result.frame.loc[result.frame["status"] == "failed", "error"].drop_duplicates():
            typer.echo(f"failed: {error}", err=True)
        typer.echo(f"{result.failed} rows failed; the same command tries them again", err=True)
        raise typer.Exit(1)


@app.command()
def plan(
    config: Config,
    set_: Settings = [],  # noqa: B006
    device: Annotated[str | None, typer.Option(help="cpu, h200, a100, rtx-4090; default: this machine's.")] = None,
    devices: Annotated[int, typer.Option(min=1, help="How many of them.")] = 1,
    cores: Annotated[int | None, typer.Option(min=1, help="Processor cores in all; default: this machine's.")] = None,
    memory: Annotated[str | None, typer.Option(help="Memory of the machine, as 512GB; default: this one's.")] = None,
    disk: Annotated[str | None, typer.Option(help="Free disk, as 8TB; default: that of the store's folder.")] = None,
    assume_dataset: Annotated[bool, typer.Option(help="Plan for a known dataset that is not there yet.")] = False,
    assume_weights: Annotated[bool, typer.Option(help="Plan although weights are not there yet.")] = False,
    format: Annotated[str, typer.Option(help="text, md or json.")] = "text",
    plugin: Plugin = [],  # noqa: B006
) -> None:
    """Say what a sweep will do and cost (hours, disk, memory), what of it is done, and what cannot fit (status 2)."""
    from .planning import make_plan, parse_size, render

    made = make_plan(
        _settings(config, set_, plugin),
        device=device,
        count=devices,
        cores=cores,
        memory_gb=None if memory is None else parse_size(memory) / 1e9,
        disk_bytes=None if disk is None else parse_size(disk),
        assume_data=assume_dataset,
        assume_weights=assume_weights,
    )
    typer.echo(render(made, format))
    for reason in made.refused:
        typer.echo(f"error: {reason}", err=True)
    if made.refused:
        raise typer.Exit(2)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or rows.csv or rows.parquet files.")],
    out: Annotated[Path, typer.Option(help="The file; tables and pictures go beside it.")] = Path("RESULTS.md"),
) -> None:
    """Write RESULTS.md from the stored rows of one or several runs."""
    from .outputs import check_file, writing
    from .report import open_run, write_results

    out = check_file(out, "the page")
    with writing(out.parent, "the folder of the page"):
        write_results([open_run(run) for run in runs], out)
    typer.echo(f"wrote {out}")


register_ddranking(app)


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and exit status 2."""
    from .errors import DDOQError
    from .outputs import fault_of

    try:
        app()
    except DDOQError as problem:
        typer.echo(f"error: {problem}", err=True)
        for frame in getattr(problem, "frames", ()):  # of a plugin's own code
            typer.echo(frame, err=True)
        sys.exit(2)
    except OSError as problem:
        fault = fault_of(problem)
        if fault is None:
            raise
        named = problem.filename or "a file"
        typer.echo(f"error: {named} cannot be used: {fault}; change that and try again", err=True)
        sys.exit(2)


def _load(plugins: list[Path]) -> None:
    from .registry import load_plugin

    for path in plugins:
        load_plugin(path)


def _settings(config: str, set_: list[str], plugins: list[Path]) -> Any:
    from .config import load_config

    settings = load_config(config, _pairs(set_))
    return settings.model_copy(update={"plugins": [*settings.plugins, *map(str, plugins)]})


def _pairs(texts: list[str]) -> dict[str, Any]:
    from .yaml_files import parse_pairs

    return parse_pairs(texts)


if __name__ == "__main__":
    from .interruptions import run as interruptible

    interruptible(main)
