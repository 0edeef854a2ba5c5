"""What stops a command, and what its machine refuses: one line, the right status, nothing lost, nothing left."""

from __future__ import annotations

import functools
import json
import os
import resource
import signal
import subprocess
import sys
import time

import pytest

from ddoq_plugin import outputs, progress
from ddoq_plugin.config import load_config
from ddoq_plugin.errors import DDOQError, StoreError
from ddoq_plugin.sweeps import stages, sweep

MANY = ["--set", "seeds=10", "--set", "full_data=false", "--set", "ipc=1", "--set", "clusters=ipc"]


def command(*arguments):
    return [sys.executable, "-m", "ddoq_plugin", *map(str, arguments)]


def run(*arguments, **options):
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300, check=False, **options)


def rows_of(folder):
    files = (folder / "rows").glob("*.json")
    return {file.name: json.loads(file.read_text()) for file in files}


def one_sentence(done, *words):
    assert done.returncode == 2, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and "Traceback" not in done.stderr, done.stderr
    assert all(word in said[0] for word in words), said[0]


def stopped(config, tmp_path, number, *options):
    """Send a signal to the process and its group when three rows are there, and return how it ended."""
    taken = functools.partial(signal.signal, number, signal.SIG_DFL)  # tests may run where it is ignored
    begun = subprocess.Popen(
        command("sweep", config, *MANY, *options),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=taken,
    )
    deadline = time.monotonic() + 200
    while len(rows_of(tmp_path / "run")) < 3:
        assert begun.poll() is None and time.monotonic() < deadline, begun.stderr.read()
        time.sleep(0.02)
    os.killpg(begun.pid, number)
    said = begun.communicate(timeout=60)[1]
    return begun.returncode, said


@pytest.mark.parametrize(
    ("name", "status", "options"),
    [
        ("SIGINT", 130, ()),
        ("SIGTERM", 143, ("--local",)),
        pytest.param("SIGTERM", 143, (), marks=pytest.mark.slow),
        pytest.param("SIGHUP", 129, ("--local",), marks=pytest.mark.slow),
    ],
)
def test_a_stopped_sweep_says_how_to_go_on_and_loses_no_row(small_sweep, tmp_path, name, status, options):
    ended, said = stopped(small_sweep, tmp_path, getattr(signal, name), *options)
    rows = rows_of(tmp_path / "run")
    assert ended == status and f"stopped by {name}; the same command goes on" in said and "Traceback" not in said
    assert 3 <= len(rows) and {row["status"] for row in rows.values()} == {"done"}
    assert not (tmp_path / "run" / "RESULTS.md").exists()


def test_a_signal_that_is_ignored_stays_ignored(tmp_path):
    text = "import os, signal, sys\nfrom ddoq_plugin.interruptions import run\n"
    text += "run(lambda: (os.kill(os.getpid(), signal.SIGHUP), print('went on')))"
    ignore = functools.partial(signal.signal, signal.SIGHUP, signal.SIG_IGN)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False, preexec_fn=ignore)
    assert (done.returncode, done.stdout.strip()) == (0, "went on")


def test_a_signal_while_python_ends_changes_nothing():
    text = "import atexit, os, signal\nfrom ddoq_plugin.interruptions import run\n"
    text += "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))\nrun(lambda: print('done'))"
    taken = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False, preexec_fn=taken)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_a_sweep_without_ray_gives_the_same_rows(small_sweep, tmp_path):
    options = {"seeds": 1, "ipc": [1], "progress": False}
    names = ("top1", "top5", "val_top1", "set_hash", "image_hash", "label", "w2_used", "config_hash")
    found = []
    for local in (True, False):
        folder = tmp_path / str(local)
        result = sweep(load_config(small_sweep), local=local, output=str(folder), store=str(folder / "st"), **options)
        assert result.failed == 0
        found.append({key: {name: row.get(name) for name in names} for key, row in rows_of(folder).items()})
    assert found[0] == found[1] and len(found[0]) == 7


def test_a_plain_log_gets_a_line_by_the_clock(monkeypatch, capsys):
    monkeypatch.setattr(progress, "EVERY", 0.05)
    with progress.bar(10, "students") as shown:
        shown.update(4)
        lines, deadline = [], time.monotonic() + 10
        while not lines and time.monotonic() < deadline:  # the thread may be asleep since an earlier bar
            time.sleep(0.05)
            lines = capsys.readouterr().err.splitlines()
    assert lines and all(line.startswith("students: 4/10, ") and " taken, " in line for line in lines)
    assert [progress.clock(seconds) for seconds in (5, 750, 11100)] == ["5 s", "12:30 min", "3:05 h"]


def test_a_run_keeps_a_log(small_sweep, tmp_path):
    sweep(load_config(small_sweep), local=True, seeds=1, ipc=[1], full_data=False, progress=False)
    assert "rows, 0 of them finished" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.parametrize("place", ["store", "output"])
def test_a_folder_that_cannot_be_made_is_found_before_any_work(small_sweep, tmp_path, place):
    (tmp_path / "file").write_text("x")
    one_sentence(run("sweep", small_sweep, "--set", f"{place}={tmp_path}/file/there"), "file", "choose another folder")
    assert not (tmp_path / "run").exists() or place == "store"


def test_outputs_are_checked_before_the_work_and_folders_are_made(tmp_path):
    (tmp_path / "file").write_text("x")
    one_sentence(run("distill", "random", tmp_path / "file" / "out", "--ipc", 1, cwd=tmp_path), "file")
    one_sentence(run("distill", "random", "/proc/x/y", "--ipc", 1, cwd=tmp_path), "/proc/x")
    one_sentence(run("evaluate", "none", "--csv", tmp_path, cwd=tmp_path), "is a folder; give a file")
    assert outputs.check_file(tmp_path / "new" / "x.csv", "it").parent.is_dir()
    assert str(outputs.check_file("/dev/stdout", "it")) == "/dev/stdout"


def small_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def test_a_disk_that_refuses_is_one_sentence_and_out_is_whole_or_not_there(tmp_path):
    arguments = ("distill", "random", tmp_path / "out", "--ipc", 9, "--data-option", "image_size=128", "--store", "st")
    one_sentence(run(*arguments, cwd=tmp_path, preexec_fn=small_files), "out", "file size limit")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))
    assert run(*arguments, cwd=tmp_path).returncode == 0


def test_a_disk_that_refuses_rows_ends_the_sweep_without_failed_rows(small_sweep, tmp_path):
    options = ["--local", "--set", "students=[convnet3_w32]", "--set", "prior=pixel"]
    done = run("sweep", small_sweep, *options, preexec_fn=small_files)
    one_sentence(done, str(tmp_path), "file size limit")
    assert not [row for row in rows_of(tmp_path / "run").values() if row["status"] == "failed"]


@pytest.mark.parametrize(
    ("problem", "fault"),
    [
        (OSError(28, "x"), "disk is full"),
        (OSError(24, "x"), "ulimit -n"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "disk is full"),
        (OSError(2, "x"), None),
        (ValueError("x"), None),
    ],
)
def test_what_a_machine_refuses_is_known_whoever_says_it(tmp_path, problem, fault):
    found = outputs.fault_of(problem)
    assert (found is None) if fault is None else (fault in found)
    with pytest.raises(StoreError if fault else type(problem)), outputs.writing(tmp_path, "it"):
        raise problem


def test_a_file_of_somebody_else_that_cannot_be_read_is_not_blamed_on_the_folder(tmp_path):
    with pytest.raises(PermissionError), outputs.writing(tmp_path / "store", "the store"):
        raise PermissionError(13, "no", str(tmp_path / "data" / "x.png"))
    with pytest.raises(StoreError, match="the store"), outputs.writing(tmp_path / "store", "the store"):
        raise PermissionError(13, "no", str(tmp_path / "store" / "x"))


def test_a_folder_that_is_too_long_for_sockets_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", f"/tmp/{'x' * 100}")
    with pytest.raises(DDOQError, match="RAY_TMPDIR=.*too long for the sockets"):
        stages.connect(None)
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(stages, "LONGEST_FOLDER", 1000)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file"))
    with pytest.raises(StoreError, match="RAY_TMPDIR"):
        stages.connect(None)


def test_few_open_files_are_one_sentence(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (64, 128))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: None)
    with pytest.raises(DDOQError, match="may open 128 files at once and Ray needs 512"):
        stages.raise_file_limit()


def test_a_slow_start_of_ray_is_tried_again(monkeypatch):
    tries = []
    monkeypatch.setattr(stages, "_prepare_machine", lambda: None)
    monkeypatch.setattr(stages.ray, "shutdown", lambda: None)

    def init(**options):
        tries.append(options)
        raise Exception("The current node timed out during startup")

    monkeypatch.setattr(stages.ray, "init", init)
    with pytest.raises(DDOQError, match="Ray cannot connect on this machine .The current node.*--local runs"):
        stages.connect(None)
    assert len(tries) == stages.STARTS


def test_a_run_folder_that_was_removed_is_one_sentence(small_sweep, tmp_path, monkeypatch):
    from ddoq_plugin.sweeps import run as running

    def remove(*arguments, **options):
        (tmp_path / "run" / ".lock").unlink()

    monkeypatch.setattr(running, "run_trials", remove)
    with pytest.raises(StoreError, match="was removed while the sweep ran"):
        sweep(load_config(small_sweep), local=True, seeds=1, ipc=[1], full_data=False, progress=False)


def test_paths_of_a_config_are_those_of_the_user(small_sweep, tmp_path, monkeypatch):
    from ddoq_plugin.sweeps.resolve import resolved

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    changes = {"dataset": "folder:data", "output": "~/runs/t", "store": "~/st", "plugins": ["~/p.py"]}
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "p.py").write_text("")
    made = resolved(load_config(small_sweep, changes))
    assert made.dataset.name == "folder" and made.dataset.options()["path"] == str(tmp_path / "data")
    (tmp_path / "digits").mkdir()  # a recipe's name is a name, whatever lies in this folder
    (tmp_path / "hard_short").write_text("x")
    changes = {"dataset": "cifar10", "prior": {"name": "dit", "train": "digits"}, "protocol": "hard_short"}
    plain = resolved(load_config(small_sweep, changes | {"teacher": None}))
    assert plain.dataset.options()["root"] == str(tmp_path / "data")
    assert (plain.prior.train, plain.protocol) == ("digits", "hard_short")
    twice = resolved(load_config(small_sweep, {"dataset": {"name": "folder:a", "path": "b"}}))
    assert twice.dataset.name == "folder:a" and twice.dataset.options()["path"] == str(tmp_path / "b")
    home = str(tmp_path / "home")
    assert (made.output, made.store, made.plugins) == (f"{home}/runs/t", f"{home}/st", [f"{home}/p.py"])
