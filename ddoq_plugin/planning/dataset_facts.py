"""How many images a dataset has: counted from its files, or assumed of a known one that is not there yet."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ..config import DatasetConfig
from ..errors import ConfigError
from .rates import read_yaml

if TYPE_CHECKING:
    from ..data import ImageData

VAL_FRACTION = 0.1  # the loaders' default


@dataclass(frozen=True)
class DatasetFacts:
    """Numbers of images: of each class in ``train``, in all in ``val`` and ``test``. ``smallest`` is the smallest
    class's; ``files`` says whether images are decoded at each look. ``data`` is the dataset itself, None if assumed."""

    name: str
    train: tuple[int, ...]
    val: int
    test: int
    smallest: int
    image_size: int
    files: bool
    data: ImageData | None = None

    @property
    def classes(self) -> int:
        return len(self.train)

    @property
    def images(self) -> int:
        return sum(self.train)

    def stand_in(self, *, smallest: bool = False) -> Any:
        """Return what a method's ``check`` and ``work`` look at: the dataset, or an object with its class sizes.

        ``smallest`` gives the first class the size of the smallest, which decides what fits."""
        if self.data is not None:
            return self.data
        sizes = (self.smallest, *self.train[1:]) if smallest else self.train
        names = tuple(f"class {number}" for number in range(self.classes))
        return SimpleNamespace(
            name=self.name, fingerprint=f"assumed {self.name}", class_names=names, wnids=None, num_classes=self.classes,
            image_size=self.image_size, train=_CountedSplit(sizes, self.files),
        )  # fmt: skip


@dataclass(frozen=True)
class _CountedSplit:
    """A split of which only the numbers of images are known."""

    sizes: tuple[int, ...]
    in_files: bool

    def __len__(self) -> int:
        return sum(self.sizes)

    def class_indices(self, class_id: int) -> range:
        return range(self.sizes[class_id])


def read_dataset(config: DatasetConfig) -> DatasetFacts:
    """Load the dataset (no image is decoded of one in files) and count. Raises DataError where it is not there."""
    from ..data import FolderSplit, load_data

    data = load_data(config.name, **config.options())
    counts, files = tuple(data.class_counts("train").tolist()), isinstance(data.train, FolderSplit)
    return DatasetFacts(data.name, counts, len(data.val), len(data.test), min(counts), data.image_size, files, data)


def assume_dataset(config: DatasetConfig) -> DatasetFacts:
    """Return the published numbers of a known dataset under the config's options. ConfigError for an unknown one."""
    known, options = read_yaml("datasets.yaml"), config.options()
    if config.name not in known:
        raise ConfigError(
            f"the numbers of images of {config.name!r} are not known, so they cannot be assumed (known: "
            f"{', '.join(known)}); give the dataset itself and drop --assume-dataset"
        )
    facts = known[config.name]
    classes = len(options["classes"]) if options.get("classes") else facts["classes"]
    each, fraction = facts["train"] / facts["classes"], options.get("val_fraction", VAL_FRACTION)
    train = [round(each * (number + 1)) - round(each * number) for number in range(classes)]

    def kept(count: int) -> int:
        left, limit = count - round(fraction * count), options.get("limit_per_class")
        return left if limit is None else min(left, limit)

    return DatasetFacts(
        name=config.name, train=tuple(map(kept, train)), val=sum(round(fraction * count) for count in train),
        test=round(facts["test"] * (classes / facts["classes"])), smallest=kept(facts.get("smallest", min(train))),
        image_size=options.get("image_size") or facts["image_size"], files=facts["files"],
    )  # fmt: skip
