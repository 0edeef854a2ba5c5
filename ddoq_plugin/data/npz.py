"""``.npz`` packs: x_train, y_train, x_test, y_test and class_names in one file, no pickle."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, nearest
from .base import ArraySplit, ImageData
from .splitting import make_image_data
from .transforms import check_resize, fit_arrays

REQUIRED = ("x_train", "y_train", "x_test", "y_test")


def load_npz(
    path: str | Path,
    *,
    image_size: int | None = None,
    resize: str = "crop",
    val_fraction: float = 0.1,
    classes: Sequence[str | int] | None = None,
    limit_per_class: int | None = None,
) -> ImageData:
    """Load a ``.npz`` pack.

    Keys: ``x_train``, ``x_test`` uint8 [n, H, W, 3], [n, H, W, 1] or [n, H, W]; ``y_train``, ``y_test`` integers [n] in
    [0, C); ``class_names`` strings [C] (without it the classes are called "0", "1", ...). Other keys are ignored.
    ``image_size``: pixels; None keeps the pack's size (28x28 is padded to 32x32, as MNIST usually is). ``resize``:
    "crop" or "stretch", where a resize is needed. The other options are those of ``make_image_data``. DataError: the
    file is missing or no npz, a key is missing, or an array has a wrong type, shape or label."""
    check_resize(resize)
    file = Path(path).expanduser()
    arrays = _read(file)
    parts = {}
    for part in ("train", "test"):
        images, labels = _images(file, f"x_{part}", arrays[f"x_{part}"]), arrays[f"y_{part}"]
        if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
            found = f"{labels.dtype} {list(labels.shape)}"
            raise DataError(f"{file}: y_{part} must be {len(images)} integers, not {found}")
        parts[part] = ArraySplit(fit_arrays(images, image_size, resize), torch.from_numpy(labels.astype(np.int64)))
    if parts["train"].image_size != parts["test"].image_size:
        raise DataError(f"{file}: x_train and x_test differ in size; give image_size")
    names, notes = _class_names(file, arrays.get("class_names"), parts["train"].labels)
    return make_image_data(
        file.stem, names, parts["train"], parts["test"],
        val_fraction=val_fraction, classes=classes, limit_per_class=limit_per_class, notes=notes,
    )  # fmt: skip


def _read(file: Path) -> dict[str, np.ndarray]:
    if not file.is_file():
        raise DataError(f"the file {file} does not exist; give the path of a .npz pack")
    try:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise DataError(f"{file} is a single array, not a .npz pack; save it with np.savez_compressed")
        with loaded as pack:
            missing = [key for key in REQUIRED if key not in pack.files]
            if missing:
                hint = f"{nearest(missing[0], pack.files)} (it has: {', '.join(pack.files) or 'nothing'})"
                raise DataError(f"{file} has no array {missing[0]!r}{hint}")
            return {key: pack[key] for key in (*REQUIRED, "class_names") if key in pack.files}
    except ValueError as problem:  # what NumPy raises for pickled objects and for files of another kind
        raise DataError(
            f"{file} cannot be read without pickle ({problem}); save plain arrays, class_names with dtype=str"
        ) from problem
    except (OSError, EOFError, zipfile.BadZipFile) as problem:
        raise DataError(f"{file} is damaged ({problem}); make or copy it again") from problem


def _images(file: Path, key: str, array: np.ndarray) -> Tensor:
    if array.dtype != np.uint8:
        raise DataError(f"{file}: {key} must be uint8 (0 to 255), not {array.dtype}")
    array = array[..., None] if array.ndim == 3 else array
    if array.ndim != 4 or array.shape[-1] not in (1, 3) or 0 in array.shape:
        raise DataError(f"{file}: {key} must be [n, H, W, 3], [n, H, W, 1] or [n, H, W], not {list(array.shape)}")
    return torch.from_numpy(array).permute(0, 3, 1, 2)


def _class_names(file: Path, array: np.ndarray | None, labels: Tensor) -> tuple[list[str], list[str]]:
    """Return the class names and what a report must say of them."""
    if array is None:
        return [str(c) for c in range(int(labels.max()) + 1)], [f"{file.name} has no class_names: classes are numbered"]
    if array.ndim != 1 or array.dtype.kind != "U":
        raise DataError(f"{file}: class_names must be a list of strings, not {array.dtype} {list(array.shape)}")
    return [str(name) for name in array], []
