"""What is installed from the built wheel works as the checkout does: configs, entry points, every distiller."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return the folder into which the built wheel is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder / "site")]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    return folder / "site"


def run_installed(installed, code):
    check = f"import ddoq_plugin\nassert ddoq_plugin.__file__.startswith({str(installed)!r})\n"
    return subprocess.run(
        [sys.executable, "-c", check + code],
        env={**os.environ, "PYTHONPATH": str(installed)},
        cwd=installed.parent,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def test_everything_that_is_not_code_is_there(installed):
    code = (
        "from ddoq_plugin.config import load_config, packaged_configs\n"
        "from ddoq_plugin.evaluation import load_protocol, protocol_names\n"
        "from ddoq_plugin.priors import load_recipe, recipe_names\n"
        "from ddoq_plugin.sweeps.grid import make_grid\n"
        "print(*sorted(path.stem for path in packaged_configs()))\n"
        "for path in packaged_configs(): assert make_grid(load_config(path)).rows\n"
        "for name in protocol_names(): assert load_protocol(name).source\n"
        "for name in recipe_names(): assert load_recipe(name).source\n"
    )
    run = run_installed(installed, code)
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.split() == sorted(path.stem for path in (ROOT / "benchmark_configs").glob("*.yaml"))


def test_every_registered_distiller_makes_a_set(installed):
    code = (
        "import ddoq_baselines\n"
        f"assert ddoq_baselines.__file__.startswith({str(installed)!r})\n"
        "from ddoq_plugin.testing import Subject, registered\n"
        "for name in registered():\n"
        "    assert Subject(name).distill().ipc == 3\n"
        "print(*registered())\n"
    )
    run = run_installed(installed, code)
    assert run.returncode == 0, run.stderr[-3000:]
    assert set(run.stdout.split()) >= {"ddoq", "d4m", "random", "k_medoids", "centroid"}


def test_console_script_is_declared(installed):
    code = (
        "from importlib.metadata import entry_points\n"
        "(script,) = entry_points(group='console_scripts', name='ddoq')\n"
        "assert script.value == 'ddoq_plugin.__main__:main' and callable(script.load())\n"
    )
    assert run_installed(installed, code).returncode == 0
