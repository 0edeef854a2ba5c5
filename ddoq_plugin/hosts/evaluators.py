"""DD-Ranking's two evaluators, with the accuracies they only print, and with seeds of their own for every training.

The subclasses decide which learning rates are searched and seed what is drawn; training and scoring are the host's."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddranking.metrics import AugmentationRobustScore, LabelRobustScoreSoft

from ..seeding import derive_seed
from .patches import seed_everything
from .settings import HostSettings

Trained = tuple[float, float]  # accuracy in percent, and the learning rate it was reached with


@dataclass
class HostRun:
    """One call of an evaluator: its seeds, and what it found.

    ``reference``: the trainings on random images by (evaluation, role). They depend on seed, IPC, student and
    settings, not on the set, so that sets share them. ``found``: {evaluation: {role: (percent, learning rate)}}."""

    settings: HostSettings
    seed: int
    set_folder: Path
    reference: dict[tuple[int, str], Trained]
    evaluation: int = -1
    found: dict[int, dict[str, Trained]] = field(default_factory=dict)

    def new_evaluation(self) -> None:
        self.evaluation += 1
        self.found[self.evaluation] = {}

    def is_set(self, folder: Any) -> bool:
        return folder is not None and Path(folder) == self.set_folder

    def train(self, kind: str, helper: Callable[..., Trained], call: dict[str, Any]) -> Trained:
        """Return and note the outcome of the host's ``helper`` on the images in the call's ``image_path``."""
        is_set = self.is_set(call["image_path"])
        role, done = f"{'set' if is_set else 'random'}_{kind}", {} if is_set else self.reference
        if (self.evaluation, role) not in done:
            self.seed_training()
            done[self.evaluation, role] = helper(**call)
        self.found[self.evaluation][role] = done[self.evaluation, role]
        return done[self.evaluation, role]

    def search(self, helper: Callable[..., Trained], call: dict[str, Any]) -> Trained:
        """Return the best of the settings' learning rates, the first of equals, as soft_label.py:211-237 finds it."""
        results = []
        for rate in self.settings.learning_rates:
            self.seed_training()
            results.append(helper(**call, lr=rate))
        return max(results, key=lambda result: result[0])

    def seed_training(self) -> None:
        """Give every training of a repetition the same stream: set and reference differ in their images alone."""
        seed_everything(derive_seed("ddranking training", self.seed, self.evaluation))


class _Prepared:
    """What both evaluators need after their construction."""

    num_epochs: int

    def __init__(self, run: HostRun, **arguments: Any) -> None:
        self.run = run
        super().__init__(**arguments)
        # soft_label.py:130, aug_robust.py:135: every 20 epochs, whatever the number of epochs; with fewer than that no
        # accuracy is ever taken, and 0.0 is reported
        self.test_interval = min(run.settings.test_every, self.num_epochs)

    def _get_random_data_helper(self, eval_iter: int) -> Any:
        seed_everything(derive_seed("ddranking random images", self.run.seed, self.run.evaluation))
        host: Any = super()
        return host._get_random_data_helper(eval_iter=eval_iter)


class LabelScore(_Prepared, LabelRobustScoreSoft):
    """LRS with the accuracies of its trainings: set_hard, set_soft, random_soft (and full_hard, where it trains it)."""

    def _hyper_param_search_for_hard_label(self, **call: Any) -> Trained:
        return self.run.search(super()._compute_hard_label_metrics_helper, call)

    def _hyper_param_search_for_soft_label(self, **call: Any) -> Trained:
        return self.run.search(super()._compute_soft_label_metrics_helper, call)

    def _compute_hard_label_metrics_helper(self, **call: Any) -> Trained:
        if call["mode"] != "real":
            return self.run.train("hard", super()._compute_hard_label_metrics_helper, call)
        self.run.seed_training()
        found = self.run.found[self.run.evaluation]
        found["full_hard"] = super()._compute_hard_label_metrics_helper(**call)
        return found["full_hard"]

    def _compute_soft_label_metrics_helper(self, **call: Any) -> Trained:
        return self.run.train("soft", super()._compute_soft_label_metrics_helper, call)


class AugmentationScore(_Prepared, AugmentationRobustScore):
    """ARS with the accuracies of its trainings: set_augmented, random_augmented, set_plain and random_plain."""

    def _hyper_param_search_for_soft_label(self, *, use_aug: bool, **call: Any) -> Trained:
        with_aug, without = super()._compute_with_aug_metrics_helper, super()._compute_without_aug_metrics_helper
        return self.run.search(with_aug if use_aug else without, call | {"hard_labels": None})

    def _compute_with_aug_metrics_helper(self, **call: Any) -> Trained:
        return self.run.train("augmented", super()._compute_with_aug_metrics_helper, call)

    def _compute_without_aug_metrics_helper(self, **call: Any) -> Trained:
        return self.run.train("plain", super()._compute_without_aug_metrics_helper, call)
