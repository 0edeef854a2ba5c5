"""The methods of docs/write_a_method.md: the page shows the files as they are, and each keeps the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from ddoq_plugin.config import load_config
from ddoq_plugin.data import load_data
from ddoq_plugin.distiller import DistillContext
from ddoq_plugin.planning import make_plan
from ddoq_plugin.registry import DISTILLERS
from ddoq_plugin.report import load_rows
from ddoq_plugin.store.artifacts import Store
from ddoq_plugin.sweeps import sweep
from ddoq_plugin.testing import check_distiller

ROOT = Path(__file__).parent.parent
METHODS = ROOT / "examples" / "methods"
FILES = [*METHODS.glob("*.py"), ROOT / "examples" / "outside_package" / "ddoq_example_k_center.py"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_page_shows_the_file_as_it_is(file):
    assert file.read_text().strip() in (ROOT / "docs" / "write_a_method.md").read_text()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sharpen", {"steps": 5}),
        ("apart", {"steps": 4}),
        ("easiest", {}),
        ("easiest", {"inner": {"name": "ddoq", "steps": 4}}),
    ],
)
def test_the_contract(name, settings):
    check_distiller(name, plugin=METHODS / f"{name}.py", **settings)


@pytest.fixture
def easiest(small_sweep):
    config = load_config(
        small_sweep,
        {
            "plugins": [str(METHODS / "easiest.py")],
            "methods": [{"name": "easiest", "inner": {"name": "k_medoids"}}, "k_medoids"],
            "prior": None, "ipc": 2, "clusters": ["ipc"], "seeds": 1, "full_data": False,
        },
    )  # fmt: skip
    return config


def test_a_wrapper_in_a_sweep_a_plan_and_the_tables(easiest):
    """The wrapped set and the training are in its cost; the plain method of the same name is another set."""
    hours = {stage.name: stage.hours for stage in make_plan(easiest).stages}
    assert hours["networks"] > 0
    sweep(easiest, progress=False)
    wrapped, plain = load_rows(easiest.output_folder).sort_values("method").to_dict("records")
    assert (wrapped["method"], wrapped["label"]) == ("easiest", "k_medoids on the easiest 50%")
    assert wrapped["seconds_networks"] > 0 and wrapped["seconds_sets"] > 0
    assert wrapped["seconds_distill"] >= wrapped["seconds_networks"] and wrapped["set_hash"] != plain["set_hash"]
    left = {stage.name: stage.hours for stage in make_plan(easiest).stages}
    assert not left.get("networks") and not left.get("sets"), "what is made is not planned again"


def test_a_wrapped_method_is_part_of_the_key(tmp_path):
    from ddoq_plugin.registry import load_plugin

    load_plugin(METHODS / "easiest.py")
    method = DISTILLERS.load("easiest")
    context = DistillContext(load_data("digits", limit_per_class=5), store=Store(tmp_path))
    keys = [
        context.set_key(method(**change), 1, None, 0) for change in ({}, {"inner": {"name": "k_medoids"}}, {"keep": 1})
    ]
    assert len({str(key) for key in keys}) == 3
