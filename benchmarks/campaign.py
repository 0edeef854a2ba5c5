"""`make campaign`: a small sweep is killed, starved of disk and damaged, and its table must stay the same.

Figures are printed as they come, and the status is 1 where one is not as it should be. It takes minutes, so it is no
test. With the right to mount, a full disk is a small file system; otherwise it is a limit on the size of files."""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PROTOCOL = """\
name: thirty_steps
source: made for the campaign, says nothing of accuracy
label_mode: {mode}
loss: {loss}
optimizer: {{name: adamw, lr: 0.005}}
steps: 30
batch_size: 20
"""
SWEEP = """\
name: campaign
dataset: {name: digits, limit_per_class: 12}
prior: {name: dit, train: recipe.yaml}
methods: [{name: ddoq, weighting: [uniform, sqrt], guidance_scale: 1, steps: 4}, random]
ipc: [1, 3]
students: [mlp]
teacher: {student: mlp, protocol: hard.yaml}
protocol: soft.yaml
seeds: 2
output: run
store: store
"""
RECIPE = """\
source: made for the campaign, says nothing of quality
image_size: 16
autoencoder: {channels: [8, 8], norm_groups: 4, steps: 40, batch_size: 16, learning_rate: 0.001, kl_weight: 0.000001}
denoiser: {width: 32, layers: 1, heads: 2, steps: 40, batch_size: 16, learning_rate: 0.001}
"""
SAME = ("top1", "val_top1", "set_hash", "image_hash")
Run = tuple[int, str]
failures: list[str] = []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--moments", type=int, default=20, help="kills and interruptions, spread over all stages")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    random.seed(asked.seed)
    with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
        root = Path(folder)
        begun = time.monotonic()
        whole = place(root / "whole")
        check("the undisturbed sweep ends", sweep(whole)[0] == 0)
        length, expected = time.monotonic() - begun, table(whole)
        print(f"undisturbed: {len(expected)} rows in {length:.0f} s", flush=True)
        interrupted(root, asked.moments, length, expected)
        damaged(whole, expected)
        together(root, expected)
        full_disks(root, whole)
        bad_inputs(root)
    print("all as it should be" if not failures else f"{len(failures)} not as it should be: {'; '.join(failures)}")
    sys.exit(bool(failures))


def place(folder: Path) -> Path:
    """Make a folder with the config and its files."""
    folder.mkdir(parents=True)
    (folder / "campaign.yaml").write_text(SWEEP)
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "hard.yaml").write_text(PROTOCOL.format(mode="hard", loss="{name: cross_entropy}"))
    (folder / "soft.yaml").write_text(PROTOCOL.format(mode="soft_stored", loss="{name: kl, temperature: 20}"))
    return folder


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "ddoq_plugin", *map(str, arguments)]


def run(folder: Path, *arguments: object, limit: int | None = None) -> Run:
    """Run a command in a folder; return its status and standard error. ``limit``: bytes that a file may have."""
    before = None if limit is None else functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit))
    done = subprocess.run(
        command(*arguments), cwd=folder, capture_output=True, text=True, timeout=900, check=False, preexec_fn=before
    )
    return done.returncode, done.stderr


def sweep(folder: Path, *options: object) -> Run:
    return run(folder, "sweep", "campaign.yaml", *options)


def table(folder: Path) -> dict[str, list[object]]:
    """Return what the rows say, by their keys."""
    rows = {file.stem: json.loads(file.read_text()) for file in (folder / "run" / "rows").glob("*.json")}
    return {key: [row["status"], *(row.get(name) for name in SAME)] for key, row in rows.items()}


def finished(folder: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of everything that is finished: rows and manifests of artifacts."""
    files = [*(folder / "run" / "rows").glob("*.json"), *(folder / "store").glob("*/*/manifest.json")]
    return {str(file): (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def check(what: str, right: bool) -> None:
    if not right:
        failures.append(what)
        print(f"NOT AS IT SHOULD BE: {what}", flush=True)


def one_sentence(what: str, done: Run, *words: str) -> None:
    said = [line for line in done[1].splitlines() if line.startswith("error: ")]
    right = done[0] == 2 and len(said) == 1 and "Traceback" not in done[1] and all(word in said[0] for word in words)
    check(f"{what}: status {done[0]}, {done[1][-300:]!r}", right)


def interrupted(root: Path, moments: int, length: float, expected: dict[str, list[object]]) -> None:
    """Stop sweeps at random moments by SIGKILL and SIGINT in turn, until each has come to its end."""
    left, repeated, stages, rounds = moments, 0, dict.fromkeys(("before rows", "among rows"), 0), 0
    while left > 0:
        folder = place(root / f"round{rounds}")
        rounds += 1
        while True:
            number = signal.SIGKILL if left % 2 else signal.SIGINT
            before = finished(folder)
            taken = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # this may run where it is ignored
            begun = subprocess.Popen(
                command("sweep", "campaign.yaml"), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                text=True, start_new_session=True, preexec_fn=taken,
            )  # fmt: skip
            try:
                begun.wait(timeout=random.uniform(0.3, length) if left > 0 else 900)
            except subprocess.TimeoutExpired:
                os.killpg(begun.pid, number)
                said = begun.communicate(timeout=60)[1]
                left -= 1
                rows = table(folder)
                stages["among rows" if rows else "before rows"] += 1
                if number == signal.SIGINT and begun.returncode == 0:  # it came when the work was done
                    check("a sweep that is not stopped any more has its whole table", rows == expected)
                elif number == signal.SIGINT:
                    check(f"SIGINT ends with {begun.returncode}: {said[-300:]!r}", begun.returncode == 130)
                    check("one line says how to go on", "the same command goes on" in said and "Traceback" not in said)
                check("no row is marked failed", all(row[0] == "done" for row in rows.values()))
            else:
                said = begun.communicate()[1]
                check(f"the sweep ends after its stops: {said[-300:]!r}", begun.returncode == 0)
            after = finished(folder)
            repeated += sum(after.get(name) != stamp for name, stamp in before.items())
            if begun.returncode == 0:
                break
        check("the table after the stops is the undisturbed one", table(folder) == expected)
        shutil.rmtree(folder)
    check("nothing that was finished is made again", repeated == 0)
    time.sleep(3)
    check("no process is left", not own_processes(root))
    print(f"{moments} stops ({stages}) over {rounds} sweeps, {repeated} finished things made again", flush=True)


def own_processes(root: Path) -> list[str]:
    """Return the Ray processes whose working folder was one of the campaign's."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str(root) in os.readlink(entry / "cwd") and int(entry.name) != os.getpid():
                found.append(entry.name)
        except OSError:
            continue
    return found


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


WAYS: dict[str, Callable[[Path], object]] = {
    "flipped": flip,
    "cut": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "deleted": lambda file: file.unlink(),
}


def damaged(folder: Path, expected: dict[str, list[object]]) -> None:
    """Damage one artifact of every kind in each way, remove all rows, and make the table again."""
    harmed = 0
    for way, harm in WAYS.items():
        for kind in sorted(path for path in (folder / "store").iterdir() if path.is_dir()):
            files = sorted(file for file in kind.glob("*/*") if file.is_file() and file.stat().st_size > 64)
            if files:
                harm(random.choice(files))
                harmed += 1
        shutil.rmtree(folder / "run" / "rows")
        done = sweep(folder)
        check(f"the sweep mends artifacts that were {way}: {done[1][-300:]!r}", done[0] == 0)
        check(f"the table after artifacts were {way} is the undisturbed one", table(folder) == expected)
    print(f"{harmed} artifacts damaged and made again", flush=True)


def together(root: Path, expected: dict[str, list[object]]) -> None:
    """Run two sweeps on one store at once, and a third in the folder of the first."""
    folder = place(root / "together")
    pair = [
        subprocess.Popen(
            command("sweep", "campaign.yaml", "--set", f"output={name}/run"),
            cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for name in ("a", "b")
    ]  # fmt: skip
    while not (folder / "a" / "run" / "config.yaml").exists() and pair[0].poll() is None:
        time.sleep(0.2)
    one_sentence("a third sweep in one folder", sweep(folder, "--set", "output=a/run", "--local"), "another sweep")
    check("both sweeps end", [one.wait(timeout=900) for one in pair] == [0, 0])
    tables = [sorted(map(str, table(folder / name).values())) for name in ("a", "b")]
    check("both tables are the undisturbed one", tables == [sorted(map(str, expected.values()))] * 2)
    print("two sweeps ran on one store, a third was refused", flush=True)


@contextmanager
def small_disk(folder: Path) -> Iterator[int | None]:
    """Make a folder of 200 kB; without the right to mount, yield a limit for the size of files instead."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    mounted = shutil.which("mount") and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield None if mounted else 20_000
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=False)


def full_disks(root: Path, whole: Path) -> None:
    """Fill the disk under OUT, the store of distill and of a sweep, a run's folder and a CSV file."""
    big = ("--ipc", 9, "--data-option", "image_size=128")
    small = ("--local", "--set", "students=[convnet3_w32]")
    work = place(root / "disk")
    shutil.copytree(whole / "store", work / "store")
    made = run(work, "distill", "random", "set", "--ipc", 1)
    check(f"a set is distilled: {made[1][-300:]!r}", made[0] == 0)
    cases: dict[str, tuple[object, ...]] = {
        "OUT": ("distill", "random", "FULL/out", *big),
        "the store of a set": ("distill", "centroid", "out", *big, "--prior", "pixel", "--store", "FULL/store"),
        "the store of a sweep": ("sweep", "campaign.yaml", *small, "--set", "store=FULL/store"),
        "the run's folder": ("sweep", "campaign.yaml", *small, "--set", "output=FULL/run"),
        "a prior": ("train-prior", "FULL/prior", "--recipe", "recipe.yaml"),
    }
    kinds, before = set(), len(failures)
    for number, (what, arguments) in enumerate(cases.items()):
        with small_disk(work / f"full{number}") as limit:
            kinds.add("limit" if limit else "mount")
            named = [str(one).replace("FULL", str(work / f"full{number}")) for one in arguments]
            one_sentence(f"a full disk under {what}", run(work, *named, limit=limit), f"full{number}")
            check(f"OUT is whole or not there ({what})", not (work / f"full{number}" / "out").exists())
    print(f"{len(cases)} full disks ({', '.join(kinds)}), {len(failures) - before} not one sentence", flush=True)


def bad_inputs(root: Path) -> None:
    """Give configs, settings and protocols what cannot be meant; each must be one sentence within seconds."""
    from ddoq_plugin.config import load_config
    from ddoq_plugin.errors import DDOQError
    from ddoq_plugin.evaluation import load_protocol
    from ddoq_plugin.sweeps.grid import make_grid
    from ddoq_plugin.yaml_files import set_values

    config = place(root / "bad") / "campaign.yaml"
    wrong: list[object] = [True, "1x", -1, 0, 10**12, float("nan"), float("inf"), [], {}, None, [[1]], "\0"]
    number_keys = (
        "ipc",
        "clusters",
        "seeds",
        "resources.cpus",
        "resources.max_concurrent",
        "prior.seed",
        "teacher.seed",
    )
    settings = ("strength", "guidance_scale", "steps", "km_expand", "inversion_steps", "stored_size")
    numbers = ("batch_size", "steps", "accumulation", "optimizer.lr", "loss.temperature", "augmentation.padding")
    fine = {("resources.max_concurrent", "None"), ("stored_size", "None"), ("strength", "0"), ("prior.seed", "0")}
    fine |= {("augmentation.padding", "0"), ("teacher.seed", "0")}
    givers: dict[tuple[str, ...], Callable[[str, object], object]] = {
        number_keys: lambda key, value: load_config(config, {key: value}),
        settings: lambda key, value: make_grid(load_config(config, {"methods": [{"name": "ddoq", key: value}]})),
        numbers: lambda key, value: load_protocol(set_values({"extends": "hard_short"}, {key: value})),
    }
    cases = [
        (f"{key}={value!r}", functools.partial(give, key, value))
        for keys, give in givers.items()
        for key in keys
        for value in wrong
        if (key, str(value)) not in fine
    ]
    slow, before = 0, len(failures)
    for what, give in cases:
        begun = time.monotonic()
        try:
            give()
        except DDOQError as problem:
            check(f"{what} is one sentence: {str(problem)[:200]!r}", "\n" not in str(problem))
        except Exception as problem:
            check(f"{what} is no {type(problem).__name__}: {problem!s:.200}", False)
        else:
            check(f"{what} is refused", False)
        slow += time.monotonic() - begun > 5
    check("bad inputs are refused within seconds", slow == 0)
    print(f"{len(cases)} bad inputs, {len(failures) - before} not one sentence", flush=True)


if __name__ == "__main__":
    main()
