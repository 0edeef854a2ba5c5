"""Distilled sets as other projects publish them: tensors of their own space, targets, rates, folders.

Files are read without running code from them: tensors alone of ``.pt``, arrays alone of ``.npz``."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .data.class_names import few
from .distilled_set import DistilledSet
from .errors import DataError, nearest
from .preprocessing import PIXELS, Preprocessing
from .store.artifacts import hash_file

if TYPE_CHECKING:
    import torch

    from .data import ImageData

# mean and deviation a channel: get_dataset in utils.py of VICO-UoE/DatasetCondensation at 53f63a6
DC_CONSTANTS = {
    "mnist": ((0.1307,) * 3, (0.3081,) * 3),
    "fashion_mnist": ((0.2861,) * 3, (0.3530,) * 3),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "tiny_imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
# MTT, FTD and DATM take CIFAR-10's for CIFAR-100: utils.py of GeorgeCazenavette/mtt-distillation at 50dccea
MTT_CONSTANTS = {**DC_CONSTANTS, "cifar100": DC_CONSTANTS["cifar10"]}
FREPO_SHARE = 0.1  # zca_reg in FRePo's configuration; reg_coef in RFAD's
SPACES = ("pixels", "standardised", "zca")


@dataclass
class Found:
    """What the files hold: images float ``[n, 1 or 3, H, W]``, labels ``[n]``, and what else they say."""

    images: torch.Tensor
    labels: torch.Tensor
    targets: torch.Tensor | None = None
    target_kind: Literal["logits", "regression"] = "logits"
    learning_rate: float | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Layout:
    """How a project publishes its sets. spaces: those that its tensors may be in; the first is taken where ``told``,
    otherwise the user says. protocol: the one that scores a set as its authors do."""

    about: str
    read: Callable[[Sequence[Path], int], Found] | None
    spaces: tuple[str, ...]
    protocol: str
    told: bool = True
    constants: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = field(default_factory=dict)
    whitening: Callable[[ImageData], Preprocessing] = lambda data: Preprocessing.fit("zca", data.train)


def import_set(
    files: Sequence[str | Path],
    layout: str,
    data: ImageData,
    *,
    space: str | None = None,
    run: int = 0,
    mosaic: int = 1,
    label: str | None = None,
) -> DistilledSet:
    """Return a published set as one of this package; classes by number are those of ``data`` in their order.

    ``layout``: a name of :data:`LAYOUTS`. ``space``: pixels, standardised or zca, where the layout does not tell.
    ``run``: which of several sets in a file. ``mosaic``: 2 where an image holds four (IDM). What was read, and how,
    stands in the provenance (``notes``). Raises DataError naming the file and what to do."""
    how = LAYOUTS.get(layout)
    if how is None:
        raise DataError(f"there is no layout {layout!r}{nearest(layout, LAYOUTS)}; use one of {', '.join(LAYOUTS)}")
    paths = [Path(file).expanduser() for file in files]
    for path in paths:
        if not path.exists():
            raise DataError(f"there is no file or folder {path}; give what was published")
    about: dict[str, Any] = {"method": "import", "label": label or f"{layout} {paths[0].stem}", "layout": layout}
    about |= {"dataset": data.name, "protocol": how.protocol}
    if how.read is None:
        made = _of_folder(paths, data)
        return replace(made, mosaic=mosaic, provenance={**about, "notes": made.provenance["notes"]})
    wanted = _space(how, layout, space, data)
    found = how.read(paths, run)
    images, labels = _fitted(found, data, wanted), found.labels.long()
    _check_labels(labels, data)
    notes = [_said(labels, data), *found.notes, f"images are {_space_name(wanted)}"]
    sources = [file for path in paths for file in ([path] if path.is_file() else sorted(path.iterdir()))]
    files_read = {file.name: hash_file(file) for file in sources if file.is_file()}
    order = labels.argsort(stable=True)
    return DistilledSet(
        None,  # a preview of the floats is made
        labels[order],
        data.class_names,
        targets=None if found.targets is None else found.targets[order],
        target_kind=found.target_kind,
        learning_rate=found.learning_rate,
        floats=images[order],
        preprocessing=wanted,
        mosaic=mosaic,
        provenance={**about, "files": files_read, "notes": notes},
    )


def _said(labels: torch.Tensor, data: ImageData, limit: int = 10) -> str:
    """Return which class each number is, and how many images it has."""
    fewest, most = (int(count) for count in labels.bincount(minlength=data.num_classes).aminmax())
    pairs = ", ".join(f"{number} is {name}" for number, name in enumerate(data.class_names[:limit]))
    more = ", ..." if data.num_classes > limit else ""
    return f"classes by number, {fewest if fewest == most else f'{fewest} to {most}'} images each: {pairs}{more}"


def _space_name(space: Preprocessing) -> str:
    if space.kind == "standardised":
        mean, std = (", ".join(f"{value:.4f}" for value in one.tolist()) for one in (space.mean, space.std))
        return f"standardised by mean {mean} and deviation {std}"
    return {"none": "pixels in [0, 1]", "zca": "ZCA-whitened, with a matrix of the training images"}[space.kind]


def _space(how: Layout, layout: str, space: str | None, data: ImageData) -> Preprocessing:
    """Return the space of the tensors."""
    import torch

    if space is None and not how.told:
        raise DataError(f"the layout {layout!r} does not tell its space; say --space {' or '.join(how.spaces)}")
    kind = space or how.spaces[0]
    if kind not in how.spaces:
        raise DataError(f"the layout {layout!r} has no space {kind!r}; use {' or '.join(how.spaces)}")
    if kind == "pixels":
        return PIXELS
    if kind == "zca":
        return how.whitening(data)
    if data.name in how.constants:
        mean, std = how.constants[data.name]
        return Preprocessing("standardised", torch.tensor(mean), torch.tensor(std))
    return Preprocessing.fit("standardised", data.train)


def _fitted(found: Found, data: ImageData, space: Preprocessing) -> torch.Tensor:
    """Return the images with three channels, at the data's size where they are grey ones without its padding."""
    from .data.transforms import pad_images

    images = found.images
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.shape[2] != images.shape[3]:
        raise DataError(f"the images have shape {list(images.shape)}, not [n, 1 or 3, S, S]; look at the layout")
    grey, side = images.shape[1] == 1, images.shape[-1]
    images = images.float().expand(-1, 3, -1, -1)
    if grey and side < data.image_size and space.kind == "standardised":
        images = space.apply(pad_images(space.undo(images), data.image_size))
        found.notes.append(f"padded with black from {side} to {data.image_size} px, as the dataset is")
    if images.shape[-1] > data.image_size or images.shape[-1] != data.image_size and space.kind == "zca":
        raise DataError(
            f"the images have {images.shape[-1]} px and the dataset {data.name!r} {data.image_size} px; load it with "
            f"image_size={images.shape[-1]}"
        )
    return images.contiguous()


def _check_labels(labels: torch.Tensor, data: ImageData) -> None:
    present = labels.unique().tolist()
    if present != list(range(data.num_classes)):
        missing = [data.class_names[c] for c in range(data.num_classes) if c not in present]
        said = f"{few(missing)} have no image" if missing else f"the largest label is {present[-1]}"
        raise DataError(
            f"the set's labels are not the {data.num_classes} classes of {data.name!r} ({said}); give the dataset that "
            "it was made from"
        )


def _of_folder(paths: Sequence[Path], data: ImageData) -> DistilledSet:
    if len(paths) != 1 or not paths[0].is_dir():
        raise DataError("this layout is one folder of class folders; give it alone")
    return DistilledSet.load(paths[0], data.class_names, wnids=data.wnids)


def _read_dc(files: Sequence[Path], run: int) -> Found:
    """Read ``res_METHOD_DATA_NET_nipc.pt``: a list of runs under "data", each images and labels."""
    content = plain_tensors(_one(files))
    runs = content.get("data") if isinstance(content, Mapping) else None
    if not isinstance(runs, list) or not runs:
        raise DataError(f"{files[0]} has no list of runs under 'data', as DC, DSA, DM and IDM save them")
    if not 0 <= run < len(runs):
        raise DataError(f"{files[0]} has the runs 0 to {len(runs) - 1}, not {run}; set --run")
    images, labels = runs[run][:2]
    return Found(images.detach(), labels.detach(), notes=[f"run {run} of {len(runs)} in the file"])


def _read_mtt(files: Sequence[Path], run: int) -> Found:
    """Read the tensors of images and labels, and of the rate where it was saved."""
    chosen = _by_part(files)
    images, labels = (plain_tensors(chosen[part]).detach() for part in ("images", "labels"))
    rate = float(plain_tensors(chosen["lr"])) if "lr" in chosen else None
    notes = [f"{part} from {path.name}" for part, path in chosen.items()]
    if labels.ndim == 1:
        return Found(images, labels, learning_rate=rate, notes=notes)
    notes.append("labels are logits; the class of an image is the largest")
    return Found(images, labels.argmax(1), labels.float(), "logits", rate, notes)


def _read_frepo(files: Sequence[Path], run: int) -> Found:
    """Read an ``.npz`` of images and regression targets: FRePo's in channels last, RFAD's in channels first."""
    import torch

    arrays = _arrays(_one(files))
    images, labels = (
        next((torch.from_numpy(arrays[name]) for name in names if name in arrays), None)
        for names in (("image", "images"), ("label", "labels"))
    )
    if images is None or labels is None or labels.ndim != 2:
        raise DataError(f"{files[0]} has no arrays of images and of targets [n, classes] (but {few(list(arrays))})")
    if images.ndim == 4 and images.shape[1] not in (1, 3):
        images = images.permute(0, 3, 1, 2)
    note = "labels are regression targets; the class of an image is the largest"
    return Found(images, labels.argmax(1), labels.float(), "regression", notes=[note])


def _one(files: Sequence[Path]) -> Path:
    if len(files) != 1 or not files[0].is_file():
        raise DataError(f"this layout is one file, and {len(files)} paths were given or a folder; give the file")
    return files[0]


def _by_part(files: Sequence[Path]) -> dict[str, Path]:
    """Return the files of images, labels and, if there is one, the rate, by their names."""
    given = [file for path in files for file in ([path] if path.is_file() else sorted(path.glob("*_best.pt")))]
    chosen: dict[str, Path] = {}
    for part, mark in (("images", "image"), ("labels", "label"), ("lr", "lr")):
        fits = [file for file in given if mark in file.stem.lower()]
        if len(fits) > 1:
            raise DataError(f"several files are {part} ({few([file.name for file in fits])}); give one of them")
        if fits:
            chosen[part] = fits[0]
    for part in ("images", "labels"):
        if part not in chosen:
            raise DataError(
                f"no file of {part} among {few([file.name for file in given])}; give images_best.pt and labels_best.pt "
                "(and lr_best.pt), or their folder"
            )
    return chosen


def plain_tensors(path: Path) -> Any:
    """Return what a ``.pt`` file holds: tensors, plain values and NumPy's numbers, nothing that runs code."""
    import numpy as np
    import torch

    scalar: Any = np.float64(0).__reduce__()[0]
    array: Any = np.zeros(1).__reduce__()[0]
    kinds = [type(np.dtype(name)) for name in ("float32", "float64", "int64")]
    allowed: list[Any] = [np.dtype, np.ndarray, *kinds, scalar, array]
    for one in allowed[-2:]:  # NumPy 2 and NumPy 1 keep these functions at other places
        allowed += [(one, f"{module}.multiarray.{one.__name__}") for module in ("numpy.core", "numpy._core")]
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, zipfile.BadZipFile, ValueError) as problem:
        first = str(problem).strip().partition("\n")[0]
        raise DataError(
            f"{path} cannot be read as tensors ({first}); save images and labels as plain tensors"
        ) from None


def _arrays(path: Path) -> dict[str, Any]:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in content.files if content[name].dtype != object}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as problem:
        raise DataError(f"{path} cannot be read as an .npz of arrays ({problem}); give the published file") from None


def _frepo_space(data: ImageData) -> Preprocessing:
    return Preprocessing.fit_share(data.train, FREPO_SHARE)


def _rfad_space(data: ImageData) -> Preprocessing:
    return Preprocessing.fit_share(data.train, FREPO_SHARE, centred=False)


LAYOUTS = {
    "dc": Layout(
        "DC, DSA, DM, IDM: one .pt file of runs", _read_dc, ("standardised",), "hard_dsa", constants=DC_CONSTANTS
    ),
    "mtt": Layout(
        "MTT, TESLA, FTD: images_best.pt, labels_best.pt", _read_mtt, ("zca", "standardised"), "hard_mtt", told=False,
        constants=MTT_CONSTANTS,
    ),
    "datm": Layout(
        "DATM: images_best.pt, labels_best.pt (logits), lr_best.pt", _read_mtt, ("zca", "standardised"), "soft_datm",
        constants=MTT_CONSTANTS,
    ),
    "frepo": Layout(
        "FRePo: one .npz of image and label", _read_frepo, ("zca", "standardised"), "soft_frepo", told=False,
        whitening=_frepo_space,
    ),
    "rfad": Layout(
        "RFAD: one .npz of images and labels", _read_frepo, ("zca", "standardised"), "soft_frepo", told=False,
        whitening=_rfad_space,
    ),
    "rded": Layout("RDED: a folder of class folders", None, ("pixels",), "soft_online_rded"),
    "srell": Layout("SRe2L: a folder of class folders", None, ("pixels",), "soft_stored_sre2l"),
}  # fmt: skip
