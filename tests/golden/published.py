"""Values of the official code (the files beside this one), as tensors, networks and draws of ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from ddoq_baselines.engine.networks import FlatNetwork
from torch import nn

from ddoq_plugin.evaluation.dsa import Draw
from ddoq_plugin.evaluation.dsa_strategy import OPERATIONS
from ddoq_plugin.evaluation.inputs import Normaliser
from ddoq_plugin.evaluation.students.convnet import _convnet

GOLDEN = Path(__file__).parent
WIDE = Normaliser(
    (0.5,) * 3, (0.02,) * 3
)  # with it, images of deviation 1 stay within [0, 1], where nothing is clamped
NAMES = {
    "color": ("brightness_u", "saturation_u", "contrast_u"), "crop": ("crop_rows", "crop_cols"),
    "cutout": ("cutout_rows", "cutout_cols"), "flip": ("flip_u",), "scale": ("scale_x", "scale_y"),
    "rotate": ("rotate_rad",),
}  # fmt: skip


class Values(dict):
    """The arrays of a file as tensors: those of floats in ``dtype``, texts as they are."""

    def __init__(self, name: str, dtype: torch.dtype = torch.float64) -> None:
        loaded = np.load(GOLDEN / f"{name}.npz")
        super().__init__({key: self._tensor(loaded[key], dtype) for key in loaded.files})

    @staticmethod
    def _tensor(array: np.ndarray, dtype: torch.dtype):
        if array.dtype.kind in "US":
            return array
        made = torch.from_numpy(np.asarray(array))
        return made.to(dtype) if made.is_floating_point() else made

    def module(self, prefix: str = "w.") -> nn.Module:
        """Return the ConvNet whose parameters the file holds under ``prefix``."""
        state = {name.removeprefix(prefix): value for name, value in self.items() if name.startswith(prefix)}
        first, last = state["features.0.weight"], state["classifier.weight"]
        depth = sum(name.endswith("weight") and value.ndim == 4 for name, value in state.items())
        side = round((last.shape[1] / len(first)) ** 0.5) << depth
        norm = {"batchnorm": "batch"}.get(str(self.get("norm", "")), "instance")
        made = _convnet(len(last), side, depth=depth, width=len(first), norm=norm).to(first.dtype)
        made.load_state_dict(state, strict=norm != "batch")
        return made

    def flat_network(self) -> FlatNetwork:
        """Return the ConvNet of a file of flat vectors, which gives names and shapes."""
        shapes = [
            tuple(map(int, str(text).replace("x", " ").replace(",", " ").split())) for text in self["param_shapes"]
        ]
        width, classes, features = shapes[0][0], shapes[-2][0], shapes[-2][1]
        depth = sum(len(shape) == 4 for shape in shapes)
        side = round((features / width) ** 0.5) << depth
        made = FlatNetwork(_convnet(classes, side, depth=depth, width=width).to(self["start"].dtype))
        assert [name.removeprefix("inner.") for name in made.names] == [str(name) for name in self["param_names"]]
        assert [tuple(shape) for shape in made.shapes] == shapes
        return made

    def draw(self, prefix: str, operation: str | None = None) -> Draw:
        """Return the draw under ``prefix``."""
        operation = operation or str(self[f"{prefix}.op"])
        columns = [self[f"{prefix}.{name}"].float() for name in NAMES[operation]]
        columns += [torch.zeros(len(columns[0]))] * (3 - len(columns))
        numbers = torch.stack(columns, 1)
        return Draw(torch.full((len(numbers),), OPERATIONS.index(operation)), numbers)

    def batches(self) -> list[torch.Tensor]:
        """Return the places of each step's batch; -1 stands for none."""
        return [rows[rows >= 0] for rows in self["batches"]]


def near(got: torch.Tensor, wanted: torch.Tensor, share: float = 1e-8) -> None:
    """Assert that two tensors differ by at most ``share`` of the largest entry."""
    assert got.shape == wanted.shape
    difference, largest = (got - wanted).abs().max(), wanted.abs().max()
    assert difference <= share * largest, f"{float(difference):.3g} of {float(largest):.3g}"
