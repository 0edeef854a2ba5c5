"""Where a configured prior comes from: loaded from its files, or trained once and kept in the store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..store.code import code_hash
from . import load_recipe

if TYPE_CHECKING:
    from ..config import PriorConfig
    from ..data import ImageData
    from ..store.artifacts import Store
    from . import Prior


class PriorSource:
    """The prior of a config for a dataset; training happens when it is first asked for, and only once a store."""

    def __init__(
        self, config: PriorConfig, data: ImageData, store: Store, device: str = "cpu", *, progress: bool = False
    ) -> None:
        if config.train is not None and config.path is not None:
            raise ConfigError("a prior has either a path (it is loaded) or train (it is trained); drop one of the two")
        if config.train is not None and config.name != "dit":
            raise ConfigError(f"only 'dit' priors are trained, not {config.name!r}; give a path instead of train")
        self.config, self.data, self.store, self.device, self.progress = config, data, store, device, progress
        self._prior: Prior | None = None

    @property
    def key(self) -> dict[str, Any]:
        """What the prior depends on: its files, or the recipe, data and code that train it."""
        if self.config.train is None:
            return {"name": self.config.name, "fingerprint": self.load().fingerprint}
        recipe = self._recipe().model_dump(mode="json", exclude={"source"})
        made_by = {"recipe": recipe, "seed": self.config.seed, "data": self.data.fingerprint}
        code = code_hash("ddoq_plugin.priors.training")
        return {"name": self.config.name, **made_by, "options": self.config.plain_options(), "code": code}

    def load(self) -> Prior:
        """Return the prior, bound to the dataset's classes. Raises PriorError where its files or classes do not fit."""
        if self._prior is None:
            from . import load_prior

            path = self.config.path if self.config.train is None else str(self.folder())
            options = self.config.options()
            if self.config.name == "pixel":
                options.setdefault("image_size", self.data.image_size)
            self._prior = load_prior(self.config.name, path=path, device=self.device, **options)
            self._prior.title = self.config.title
            self._prior.bind_classes(self.data.class_names, self.data.wnids)
        return self._prior

    def check(self) -> None:
        """Raise PriorError where the recipe does not fit the images; called before anything is trained."""
        if self.config.train is not None:
            self._recipe().latent_size(self.data.image_size)

    def folder(self) -> Path:
        """Return the folder of the trained prior, training it first if it is not in the store."""
        from . import train_prior

        def make(folder: Path) -> None:
            train_prior(self.data, folder, self._recipe(), self.config.seed, self.progress, device=self.device)

        return self.store.get("priors", self.key, make, resumable=True)

    def _recipe(self):
        return load_recipe(self.config.train)
