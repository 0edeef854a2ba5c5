"""Every registered distiller keeps the contract; a new entry is tested without writing a test."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ddoq_plugin import Distiller
from ddoq_plugin.registry import DISTILLERS
from ddoq_plugin.testing import (
    CHECKS,
    IPC,
    Subject,
    check_declared_work,
    check_distiller,
    fresh_hashes,
    registered,
    small_context,
)

EXAMPLE = Path(__file__).parent.parent / "examples" / "outside_package"


@pytest.fixture(scope="module")
def made_in_another_process():
    """One fresh process makes the sets of all methods, instead of one each."""
    fresh_hashes([Subject(name) for name in registered()])


@pytest.mark.usefixtures("made_in_another_process")
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("name", registered())
def test_contract(name, check):
    check(Subject(name))


def test_a_given_set_keeps_the_contract(tmp_path):
    for ipc in (1, IPC):
        for seed in (0, 1):
            Subject("random").distill(ipc, seed=seed).save(tmp_path / f"set_{ipc}_{seed}")
    check_distiller("set", path=str(tmp_path / "set_{ipc}_{seed}"))


class Breaks(Distiller):
    """Registered by each test below with one promise broken."""

    makes_images = False

    def distill(self, context, ipc, *, clusters=None, seed=0):
        import torch

        self.check(context, ipc, None)
        images = torch.cat([context.images(c)[:ipc] for c in range(context.num_classes)])
        images, weights = self.change(images, torch.ones(len(images)))
        labels = torch.arange(context.num_classes).repeat_interleave(ipc)
        return context.finish(self, images, labels, ipc=ipc, clusters=None, seed=seed, weights=weights)


class Forgets(Breaks):
    """Makes another set once its work is there."""

    def change(self, images, weights):
        return images, weights

    def part(self, context):
        return context.artifact_work("forgotten", {}, lambda folder: (folder / "file").touch())

    def work(self, context, ipc, clusters, seed):
        yield context.set_work(self, ipc, clusters, seed, needs=[self.part(context)])

    def distill(self, context, ipc, *, clusters=None, seed=0):
        part = self.part(context)
        there = context.store.find(part.kind, part.key) is not None
        made = super().distill(context, ipc, clusters=clusters, seed=seed)
        return dataclasses.replace(made, images=made.images.flip(3)) if there else made


class Undeclared(Breaks):
    """Declares one part and makes two."""

    def change(self, images, weights):
        return images, weights

    def parts_of_work(self, context):
        return [context.artifact_work("piece", {"n": n}, lambda folder: (folder / "file").touch()) for n in (1, 2)]

    def work(self, context, ipc, clusters, seed):
        yield context.set_work(self, ipc, clusters, seed, needs=self.parts_of_work(context)[:1])

    def distill(self, context, ipc, *, clusters=None, seed=0):
        for work in self.parts_of_work(context):
            context.do(work)
        return super().distill(context, ipc, clusters=clusters, seed=seed)


@pytest.mark.parametrize(
    ("method", "message"),
    [(Forgets, "differs when its declared work is made"), (Undeclared, "1 pieces that it did")],
)
def test_work_that_does_not_hold_what_it_declares_is_found(method, message):
    name = method.__name__.lower()
    with DISTILLERS.temporarily(**{name: method}), pytest.raises(AssertionError, match=message):
        check_declared_work(Subject(name))


def invent(self, images, weights):
    return 255 - images, weights


def weigh(self, images, weights):
    if len(weights) % 3 == 0:  # three images a class
        weights[0::3], weights[1::3] = 0.5, 1.5
    return images, weights


def use_global_generator(self, images, weights):
    import torch

    torch.rand(1)
    return images, weights


@pytest.mark.parametrize(
    ("change", "message"),
    [(invent, "not a training image"), (weigh, "declares no weights"), (use_global_generator, "global generator")],
    ids=["invents images", "hides weights", "uses the global generator"],
)
def test_broken_promises_are_found(change, message):
    name = f"breaks_{change.__name__}"
    method = type(name, (Breaks,), {"change": change})
    with DISTILLERS.temporarily(**{name: method}), pytest.raises(AssertionError, match=message):
        check_distiller(name)


def test_outside_package_installs_registers_and_keeps_the_contract(tmp_path):
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--target", str(tmp_path), str(EXAMPLE)], check=True, capture_output=True)
    code = (
        "from ddoq_plugin.registry import DISTILLERS\n"
        "from ddoq_plugin.testing import check_distiller\n"
        "assert DISTILLERS.entry('k_center').source == 'ddoq-example-k-center 0.1.0'\n"
        "check_distiller('k_center')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]


def test_readme_shows_the_example_as_it_is():
    readme = (EXAMPLE.parent.parent / "README.md").read_text()
    assert (EXAMPLE / "ddoq_example_k_center.py").read_text().strip() in readme


def test_small_context_has_images_for_the_parts_of_mosaics():
    assert small_context(with_prior=False).data.class_counts().tolist() == [4 * IPC] * 10
