"""Learning rates of a whole training, computed beforehand."""

import math

from .protocol import ScheduleSettings, TrainingNumbers


def learning_rates(schedule: ScheduleSettings, numbers: TrainingNumbers) -> list[float]:
    """Return the learning rate of every step.

    With progress p in [0, 1) (of steps, or of whole epochs where the granularity is ``epoch``), each as a factor of
    the peak:

    - constant: 1
    - cosine: (1 + cos(pi p / horizon)) / 2. Horizon 1 ends at 0 (SRe2L, D4M); 2 ends at one half (RDED's
      "smoothed" form, 0.5 (1 + cos(pi e / 2E))).
    - step: ``factor`` to the number of milestones m with p >= m (Minimax: 0.2 at 2/3 and 5/6).

    A warm-up of w steps multiplies step t < w by (t + 1) / w."""
    return [numbers.lr * _factor(schedule, numbers, step) for step in range(numbers.steps)]


def _factor(schedule: ScheduleSettings, numbers: TrainingNumbers, step: int) -> float:
    progress = step / numbers.steps
    if schedule.granularity == "epoch":
        progress = math.floor(step / numbers.steps_per_epoch) * numbers.steps_per_epoch / numbers.steps
    warm_steps = math.ceil(numbers.warmup * numbers.steps)
    warm = min(1.0, (step + 1) / warm_steps) if warm_steps else 1.0
    if schedule.name == "cosine":
        return warm * 0.5 * (1 + math.cos(math.pi * progress / schedule.horizon))
    if schedule.name == "step":
        # milestones are fractions like 2/3, so a hair of tolerance keeps the step itself on the lower side
        return warm * schedule.factor ** sum(progress >= milestone - 1e-9 for milestone in schedule.milestones)
    return warm
