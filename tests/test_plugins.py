"""Methods of other people: what goes wrong in them is told with their name, file and line."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from ddoq_plugin import DistilledSet
from ddoq_plugin.config import load_config
from ddoq_plugin.errors import ConfigError, DataError, DistillError
from ddoq_plugin.registry import DISTILLERS, load_plugin
from ddoq_plugin.sweeps import sweep

METHOD = """
import torch
from ddoq_plugin import DistilledSet, Distiller, register_distiller

def helper(context, ipc):
    {helper}

@register_distiller("mine")
class Mine(Distiller):
    "A method of a test."
    def distill(self, context, ipc, *, clusters=None, seed=0):
        names = context.class_names
        images = torch.zeros(len(names) * ipc, 3, 16, 16, dtype=torch.uint8)
        labels = torch.arange(len(names)).repeat_interleave(ipc)
        {body}
"""


@pytest.fixture
def method(tmp_path):
    """Return a function that writes a plugin; what it registers is gone afterwards."""

    def write(body, helper="return 1 / 0"):
        path = tmp_path / "mine.py"
        path.write_text(METHOD.format(body=body, helper=helper))
        return path

    yield write
    DISTILLERS._entries.pop("mine", None)


def distil(path, *options):
    command = [sys.executable, "-m", "ddoq_plugin", "distill", "mine", "out", "--ipc", "2", "--plugin", str(path)]
    return subprocess.run([*command, *options], cwd=path.parent, capture_output=True, text=True, check=False)


def test_an_exception_is_one_line_and_the_frames_of_its_author(method):
    done = distil(method("return helper(context, ipc)"))
    first, *frames = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert done.returncode == 2
    assert first == "error: the method 'mine' failed: ZeroDivisionError: division by zero (mine.py, line 6)"
    assert [line.split(", in ")[-1] for line in frames if "File" in line] == ["distill", "helper"]
    assert "ddoq_plugin/" not in "".join(frames)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return None", "'mine' returned NoneType; distill must return a DistilledSet"),
        ("return DistilledSet(images.numpy(), labels, names)", "images .* must be a torch.Tensor, not ndarray"),
        ("return DistilledSet(images, labels.tolist(), names)", "labels .* must be a torch.Tensor, not list"),
        ("return DistilledSet(images.float(), labels, names)", "needs uint8 images"),
        ("return DistilledSet(images[:-1], labels[:-1], names)", "returned 1 images of class .* and IPC is 2"),
        ("return DistilledSet(images[::2], labels[::2], names)", "returned 1 images of class"),
        ("return DistilledSet(images[:, :, :8], labels, names)", "images of 16x8 pixels; they must be square"),
        ("return DistilledSet(images, labels, [n + 'x' for n in names])", "other classes than the data has"),
    ],
)
def test_what_a_method_returns_is_checked_where_it_is_returned(method, body, message):
    from ddoq_plugin import distill

    load_plugin(method(body))
    with pytest.raises((DistillError, DataError), match=message):
        distill("mine", dataset="digits", ipc=2, store=method(body).parent / "st", progress=False)


def test_a_row_of_a_failed_method_says_where(method, small_sweep, tmp_path):
    plugin = method("return helper(context, ipc)", "raise KeyError('none such')")
    options = {"methods": ["mine", "random"], "plugins": [str(plugin)], "ipc": [1], "seeds": 1, "full_data": False}
    result = sweep(load_config(small_sweep, options), local=True, progress=False)
    rows = {row["method"]: row for row in result.frame.to_dict("records")}
    assert rows["random"]["status"] == "done" and rows["mine"]["status"] == "failed"
    assert "the method 'mine' failed: KeyError: 'none such' (mine.py, line 6)" in rows["mine"]["error"]


def test_two_entries_of_one_method_may_carry_labels(small_sweep, tmp_path):
    methods = [
        {"name": "ddoq", "strength": 0.0, "weighting": "uniform"},
        {"name": "ddoq", "strength": 0.0, "weighting": ["uniform", "sqrt"], "clustering": "d4m", "label": "ddoq d4m"},
    ]
    options = {"methods": methods, "ipc": [2], "clusters": ["ipc"], "seeds": 1, "full_data": False}
    result = sweep(load_config(small_sweep, options), local=True, progress=False)
    assert result.failed == 0
    assert set(result.frame["label"]) == {"ddoq uniform", "ddoq d4m weighting=uniform", "ddoq d4m weighting=sqrt"}
    with pytest.raises(ConfigError, match="both called 'ddoq uniform'; give one a label:"):
        sweep(load_config(small_sweep, options | {"methods": [methods[0], methods[0]]}), local=True, progress=False)


def test_a_device_that_is_not_there_is_refused_whatever_the_method_needs(method):
    done = distil(method("return DistilledSet(images, labels, names)"), "--device", "foo")
    assert done.returncode == 2 and "unknown device 'foo'" in done.stderr


def test_an_option_of_the_command_is_no_setting_of_the_method(method):
    done = distil(method("return DistilledSet(images, labels, names)"), "--set", "seed=4")
    assert done.returncode == 2 and "--set seed: this is no setting of the method; use --seed" in done.stderr


def test_a_set_takes_tensors_only():
    with pytest.raises(DataError, match="weights of a distilled set must be a torch.Tensor, not list"):
        DistilledSet(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.tensor([0]), ("a",), [1.0])
