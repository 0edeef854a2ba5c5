"""A sweep on a Ray cluster of two nodes: workers, a node and the driver are killed, and the results are the same."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ddoq_plugin.data import load_data

sys.path.insert(0, str(Path(__file__).parent))
from image_folder import WNIDS, make_images, save_dit  # noqa: E402
from local_cluster import LocalCluster  # noqa: E402

PLUGIN = """\
import dataclasses, os, signal, time
from pathlib import Path
from ddoq_plugin import DistillContext, register_distiller
from ddoq_plugin.ddoq import DDOQ
from ddoq_baselines.random_selection import RandomSelection

FLAGS = Path({flags!r})
DistillContext.generation_group = 4  # of two classes at IPC 2: a set has two groups


def die():
    os.kill(os.getpid(), signal.SIGKILL)


@register_distiller("slow")
class Slow(DDOQ):
    name = "slow"
    def pushforward(self, context, ipc, clusters, seed):
        plain = super().pushforward(context, ipc, clusters, seed)

        def starts(class_id):
            try:
                (FLAGS / "die_once").unlink()
                die()
            except FileNotFoundError:  # it was done, or another worker does it
                pass
            if (FLAGS / "slow").exists():
                time.sleep(0.75)
            return plain.starts(class_id)

        return dataclasses.replace(plain, starts=starts)


@register_distiller("deadly")
class Deadly(DDOQ):
    name = "deadly"
    def pushforward(self, context, ipc, clusters, seed):
        plain = super().pushforward(context, ipc, clusters, seed)

        def starts(class_id):
            if seed == 1 and (FLAGS / "deadly").exists():
                die()
            return plain.starts(class_id)

        return dataclasses.replace(plain, starts=starts, recipe={{"method": "deadly"}})


@register_distiller("fragile")
class Fragile(RandomSelection):
    def distill(self, context, ipc, *, clusters=None, seed=0):
        if seed == 1 and (FLAGS / "deadly").exists():
            raise ValueError("a bug of this method")
        return super().distill(context, ipc, clusters=clusters, seed=seed)
"""

SWEEP = """\
name: cluster
dataset: {{name: imagenet, root: {folder}/images, classes: [{classes}], image_size: 32}}
prior: {{name: dit, path: {folder}/dit}}
methods:
  - {{name: slow, strength: 0.5, steps: 4, guidance_scale: 2}}
ipc: 2
students: [mlp]
protocol: {folder}/hard.yaml
seeds: 2
full_data: false
plugins: [{folder}/plugin.py]
output: {folder}/run
store: {folder}/store
"""


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster() as started:
        yield started


@pytest.fixture
def config(small_sweep, tmp_path):
    """Return a sweep's YAML over a folder of images, with a plugin whose methods die where flags are set."""
    names = load_data("imagenet", root=make_images(tmp_path / "images"), classes=list(WNIDS)).class_names
    save_dit(tmp_path / "dit", names)
    (tmp_path / "plugin.py").write_text(PLUGIN.format(flags=str(tmp_path)))
    path = tmp_path / "cluster.yaml"
    path.write_text(SWEEP.format(folder=tmp_path, classes=", ".join(WNIDS)))
    return path


def start(cluster, config, *changes):
    settings = [part for change in changes for part in ("--set", change)]
    command = [sys.executable, "-m", "ddoq_plugin.cli", "sweep", str(config), "--address", cluster.address, *settings]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for(condition, process, limit=120):
    deadline = time.monotonic() + limit
    while not condition():
        assert process.poll() is None, f"the sweep ended too early: {process.stderr.read()[-3000:]}"
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


def finished(store):
    """Return the time of writing of every finished artifact."""
    return {file: file.stat().st_mtime_ns for file in store.glob("*/*/manifest.json") if ".work" not in str(file)}


def rows_of(folder):
    rows = [json.loads(path.read_text()) for path in (folder / "rows").glob("*.json")]
    return {(row["method"], row["seed"]): row for row in rows}


ALONE = """\
import json, sys, torch
from ddoq_plugin.config import load_config
from ddoq_plugin.sweeps.grid import make_grid
from ddoq_plugin.sweeps.resolve import resolved
from ddoq_plugin.sweeps.session import SweepSession

torch.set_num_threads(1)
config = resolved(load_config(sys.argv[1]))
session = SweepSession(config)
print(json.dumps([[spec.method, spec.seed, session.distill(spec).hash] for spec in make_grid(config).sets]))
"""


def hashes_of_one_process(config):
    """Return the hashes of the sets as one process makes them, without Ray."""
    run = subprocess.run([sys.executable, "-c", ALONE, config], capture_output=True, text=True, timeout=200, check=True)
    return {(method, seed): made for method, seed, made in json.loads(run.stdout.splitlines()[-1])}


def test_workers_a_node_and_the_driver_die_and_the_sets_are_the_same(cluster, config, tmp_path):
    expected = hashes_of_one_process(config)
    assert len(expected) == 2 and len(set(expected.values())) == 2

    for flag in ("slow", "die_once", "deadly"):
        (tmp_path / flag).touch()
    methods = (
        "methods=[{name: slow, strength: 0.5, steps: 4, guidance_scale: 2}, "
        "{name: deadly, strength: 0.5, steps: 4, guidance_scale: 2}, fragile]"
    )
    store, run = tmp_path / "second_store", tmp_path / "second"
    changes = (methods, f"output={run}", f"store={store}")
    disturbed = start(cluster, config, *changes)
    wait_for(lambda: len(list(store.glob("images/*/manifest.json"))) >= 2, disturbed)
    before = finished(store)
    cluster.tell("lose")
    assert len(list(store.glob("sets/*/manifest.json"))) < 6, "it was not half way"
    assert not (tmp_path / "die_once").exists(), "no worker was killed"
    (tmp_path / "slow").unlink()
    wait_for(lambda: len(failed_rows(run)) == 2, disturbed)
    disturbed.kill()  # the driver
    disturbed.wait()
    before |= finished(store)
    check_failures(failed_rows(run))

    cluster.tell("join")
    (tmp_path / "deadly").unlink()
    done = {key: row["finished"] for key, row in rows_of(run).items() if row["status"] == "done"}
    again = start(cluster, config, *changes)
    assert again.wait(200) == 0, again.stderr.read()[-3000:]
    rows, after = rows_of(run), finished(store)
    assert len(rows) == 6 and {row["status"] for row in rows.values()} == {"done"}
    assert {key: rows[key]["set_hash"] for key in expected} == expected
    assert {file: after.get(file) for file in before} == before, "a finished artifact was made again"
    assert {key: rows[key]["finished"] for key in done} == done, "a finished row was trained again"
    for row in rows.values():
        check_cost(row)


def failed_rows(run):
    return {key: row["error"] for key, row in rows_of(run).items() if row["status"] == "failed"}


def check_failures(failed):
    assert set(failed) == {("deadly", 1), ("fragile", 1)}, failed
    assert (
        "generate 4 images of classes" in failed["deadly", 1]
        and "ended its worker process 3 times" in failed["deadly", 1]
    )
    assert "ValueError: a bug of this method (plugin.py, line" in failed["fragile", 1]


def check_cost(row):
    for stage in ("distill", "train", *(("latents", "codebooks", "images") if row["method"] != "fragile" else ())):
        assert row[f"seconds_{stage}"] > 0 and row[f"peak_memory_mb_{stage}"] > 50, stage
        assert row[f"images_per_second_{stage}"] > 0 and row[f"device_{stage}"] == "cpu", stage
    assert row["seconds_label"] is None, "hard labels cost nothing"
    assert "peak_memory_mb" not in row and "device" not in row
