from __future__ import annotations

import subprocess
import sys

import pytest

from ddoq_plugin import registry as registry_module
from ddoq_plugin.errors import ConfigError, UnknownNameError
from ddoq_plugin.registry import DISTILLERS, REGISTRIES, Entry, Registry, load_plugin


class Point:
    def __init__(self, name, loaded=None, problem=None):
        self.name, self.value, self.dist, self._loaded, self._problem = name, f"{name}:x", None, loaded, problem

    def load(self):
        if self._problem:
            raise self._problem
        return self._loaded


@pytest.fixture
def registry(monkeypatch):
    def make(*points):
        monkeypatch.setattr(registry_module.importlib.metadata, "entry_points", lambda group: points)
        return Registry("thing", "nothing.things", ("makes_images",))

    return make


def test_every_kind_has_its_built_in_entries_without_errors():
    for kind, found in REGISTRIES.items():
        assert [entry.name for entry in found.entries() if entry.error] == [], kind
    assert set(DISTILLERS.names()) >= {"ddoq", "d4m", "random", "k_medoids", "centroid"}
    assert "digits" in REGISTRIES["datasets"] and "dit" in REGISTRIES["priors"] and "mlp" in REGISTRIES["students"]


def test_flags_and_summary_come_from_the_class():
    entry = DISTILLERS.entry("random")
    flags = {"makes_images": False, "uses_clusters": False, "uses_weights": False, "needs_prior": False}
    assert entry.flags == {**flags, "reference": True}
    assert DISTILLERS.entry("ddoq").flags["uses_weights"] is True
    assert entry.summary.startswith("Images drawn at random")


def test_lazy_target_is_imported_on_load(registry):
    found = registry(Point("many", [Entry("decoder", "json:JSONDecoder", "reads")]))
    import json

    assert found.load("decoder") is json.JSONDecoder


def test_duplicate_name_raises_in_code_and_is_listed_for_packages(registry):
    found = registry(Point("same", Point), Point("same", Registry))
    listed = {entry.name: entry for entry in found.entries()}
    assert listed["same"].target is Point
    assert "already taken" in listed["same (same:x)"].error
    with pytest.raises(ConfigError, match="already taken"):
        found.register("same", Point)


def test_unknown_name_lists_nearest_and_broken_plugins(registry):
    found = registry(Point("convnet3", Point), Point("broken", problem=ImportError("no module named magic")))
    with pytest.raises(UnknownNameError, match="'convnet3'.*broken.*magic"):
        found.load("convnet33")
    assert found.names() == ["convnet3"]
    assert [entry.error is None for entry in found.entries()] == [False, True]
    with pytest.raises(UnknownNameError, match="could not be imported"):
        found.load("broken")


def test_plugin_file_registers_once_and_a_broken_one_leaves_nothing(tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from ddoq_plugin import Distiller, register_distiller\n"
        "@register_distiller('from_file')\n"
        "class Mine(Distiller):\n"
        "    'A method of a file.'\n"
        "    def distill(self, context, ipc, *, clusters=None, seed=0): ...\n"
    )
    broken = tmp_path / "broken.py"
    broken.write_text(plugin.read_text().replace("from_file", "from_broken") + "import nothing_like_it\n")
    try:
        assert load_plugin(plugin) == load_plugin(plugin)
        assert DISTILLERS.entry("from_file").source == "file mine.py"
        plugin.write_text(plugin.read_text().replace("A method of a file", "An edited method"))
        load_plugin(plugin)
        assert DISTILLERS.entry("from_file").summary == "An edited method."
        with pytest.raises(ConfigError, match="broken.py does not load: .*nothing_like_it.* .line 6."):
            load_plugin(broken)
        assert "from_broken" not in DISTILLERS
    finally:
        DISTILLERS._entries.pop("from_file", None)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.py", "x = (", "does not load: SyntaxError.* .line 1."),
        ("a.py", "import sys\nsys.exit(0)", "does not load: SystemExit: 0 .line 2."),
        (
            "a.py",
            "from ddoq_plugin import register_distiller\nregister_distiller('random')(object)",
            "'random'.*line 2",
        ),
        ("a.yaml", "x: 1", "is no Python file"),
        (".", None, "does not exist"),
        ("missing.py", None, "does not exist"),
    ],
)
def test_a_plugin_that_was_asked_for_and_does_not_load_is_an_error(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_plugin(tmp_path / name)


def test_light_imports_stay_light():
    code = (
        "import sys, ddoq_plugin, ddoq_plugin.cli, ddoq_plugin.registry as r\n"
        "[found.entries() for found in r.REGISTRIES.values()]\n"
        "names = {'torch', 'ray', 'diffusers', 'pandas', 'sklearn', 'matplotlib', 'timm', 'ot', 'numba'}\n"
        "heavy = names & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
