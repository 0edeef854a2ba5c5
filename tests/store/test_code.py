"""Which edits change which keys: comments and docstrings none, statements those of what uses them."""

from __future__ import annotations

import sys

import pytest

from ddoq_plugin.distiller.context import method_modules
from ddoq_plugin.registry import DISTILLERS, STUDENTS
from ddoq_plugin.store import code
from ddoq_plugin.store.code import closure, code_hash

FILES = {
    "__init__.py": "",
    "method.py": """\
        '''A method.'''
        from ddoq_plugin.distiller import Distiller
        from .helpers import twice  # a comment

        class Mine(Distiller):
            '''It does things.'''
            def distill(self, context, ipc, *, clusters=None, seed=0):
                from . import late
                return twice(late.VALUE)
        """,
    "helpers.py": "from .constants import TWO\n\ndef twice(x):\n    '''Double.'''\n    return TWO * x\n",
    "constants.py": "TWO = 2\n",
    "late.py": "VALUE = 1\n",
    "unused.py": "VALUE = 3\n",
    "wrapper.py": """\
        from ddoq_plugin.distiller import Distiller

        class Wrapper(Distiller):
            def parts(self):
                from .method import Mine
                return (Mine(),)
            def distill(self, context, ipc, *, clusters=None, seed=0):
                return context.distilled(self.parts()[0], ipc)
        """,
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return a function that edits a file of a small outside package and returns the hash of its method."""
    import textwrap

    folder = tmp_path / "outsidepack"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(str(tmp_path))

    def hashed(edit=None, old="", new="", of=("outsidepack.method",)):
        if edit:
            text = (folder / edit).read_text()
            assert old in text
            (folder / edit).write_text(text.replace(old, new))
        for cached in (code_hash, code._tree_hash, code._imports, code._file):
            cached.cache_clear()
        return code_hash(*of)

    yield hashed
    for name in [name for name in sys.modules if name.partition(".")[0] == "outsidepack"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("method.py", "# a comment", "# another"),
        ("method.py", "It does things.", "It does other things."),
        ("method.py", "\n\nclass Mine", "\n\n\n\nclass Mine"),
        ("helpers.py", "Double.", "Twice as much."),
        ("unused.py", "3", "4"),
    ],
)
def test_what_does_nothing_changes_no_key(package, file, old, new):
    assert package() == package(file, old, new)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("method.py", "late.VALUE", "late.VALUE + 1"),
        ("helpers.py", "TWO * x", "x + x"),
        ("constants.py", "2", "3"),  # a helper of a helper
        ("late.py", "1", "2"),  # imported inside a function
    ],
)
def test_what_a_method_uses_changes_its_key(package, file, old, new):
    assert package() != package(file, old, new)


def test_a_wrapped_method_changes_the_key_of_its_wrapper(package):
    package()
    from outsidepack.wrapper import Wrapper

    modules = method_modules(Wrapper())
    assert modules == ["outsidepack.wrapper", "outsidepack.method"]
    before = package(of=modules)
    assert package("unused.py", "3", "5", of=modules) == before
    assert package("constants.py", "2", "3", of=modules) != before


def test_a_student_changes_no_other_students_key():
    training = closure("ddoq_plugin.evaluation.evaluator", "ddoq_plugin.data.transforms")
    factories = {STUDENTS.module(name) for name in STUDENTS.names() if STUDENTS.entry(name).source.startswith("ddoq")}
    assert {"ddoq_plugin.evaluation.training", "ddoq_plugin.evaluation.students.build"} < training
    assert len(factories) > 4 and not training & factories
    assert "ddoq_plugin.evaluation.students.resnet" not in closure(STUDENTS.module("convnet3"))


def test_a_prior_changes_the_keys_of_its_own_latents_alone():
    latents = closure("ddoq_plugin.distiller.encoding", "ddoq_plugin.priors.dit")
    assert {"ddoq_plugin.priors.latent", "ddoq_plugin.priors.autoencoder"} < latents
    assert "ddoq_plugin.priors.stable_diffusion" not in latents and "ddoq_plugin.priors.training" not in latents


def test_codebooks_follow_the_quantiser_and_nothing_else():
    own = {name.split(".")[1] for name in closure("ddoq_plugin.distiller.codebooks")}
    assert own == {"distiller", "quantization"}
    assert "ddoq_plugin.quantization.streaming" in closure("ddoq_plugin.distiller.codebooks")


def test_methods_of_the_package_do_not_depend_on_the_whole_of_it():
    for name in ("random", "k_medoids", "d4m"):
        rooms = {module.split(".")[1] for module in closure(DISTILLERS.module(name)) if "." in module}
        assert not rooms & {"sweeps", "planning", "report", "evaluation", "hosts", "data", "store"}
    assert "ddoq_plugin.ddoq" in closure(DISTILLERS.module("d4m"))


def test_code_without_a_source_is_said_to_be():
    assert code._tree_hash("no_such_module") == "interactive"
