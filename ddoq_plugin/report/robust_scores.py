"""DD-Ranking's two scores, from accuracies as fractions and from the rows of sweeps.

Li et al., "DD-Ranking: Rethinking the Evaluation of Dataset Distillation", arXiv 2505.13300. Both weigh differences of
accuracies in [0, 1] and map the result from [-1, 1] to [0, 1] by (exp(x) - exp(-1)) / (e - exp(-1)). The package
``ddranking`` 0.2.0 puts percent into the same formula (metrics/soft_label.py:561-564, metrics/aug_robust.py:577-580):
its numbers are no scores in [0, 1], and are kept apart under names that end in ``_ddranking``."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ..errors import EvaluationError
from .comparisons import has_flag, references_of
from .rows import FULL_DATA, distilled_rows, make_frame, row_key

BALANCE = 0.5  # the weight w of arXiv 2505.13300, and the default of both evaluators of ddranking 0.2.0
LRS_PARTS = ("full_hard", "set_hard", "set_soft", "random_soft")
ARS_PARTS = ("set_augmented", "random_augmented", "set_plain", "random_plain")
CELL = ["ipc", "student", "seed"]  # what a set and its random reference share


def label_robust_score(
    *, full_hard: float, set_hard: float, set_soft: float, random_soft: float, balance: float = BALANCE
) -> float:
    """Return the label-robust score (LRS).

    full_hard, set_hard: accuracy with class labels of a student trained on the full data and on the distilled set.
    set_soft, random_soft: with soft labels, on the distilled set and on as many random images. All are fractions in
    [0, 1], and so is ``balance``, w in alpha = w (set_soft - random_soft) - (1 - w) (full_hard - set_hard).
    The score is 0 at alpha = -1, 0.269 at 0, and 1 at 1. Raises EvaluationError outside [0, 1]."""
    _check(balance=balance, full_hard=full_hard, set_hard=set_hard, set_soft=set_soft, random_soft=random_soft)
    return _normalised(balance * (set_soft - random_soft) - (1 - balance) * (full_hard - set_hard))


def augmentation_robust_score(
    *, set_augmented: float, random_augmented: float, set_plain: float, random_plain: float, balance: float = BALANCE
) -> float:
    """Return the augmentation-robust score (ARS).

    Accuracies of students trained with and without augmentation, on the distilled set and on as many random images,
    as fractions in [0, 1]; ``balance`` is g in beta = g (set_augmented - random_augmented) + (1 - g) (set_plain -
    random_plain). Raises EvaluationError outside [0, 1]."""
    given = {"set_augmented": set_augmented, "random_augmented": random_augmented}
    _check(balance=balance, **given, set_plain=set_plain, random_plain=random_plain)
    return _normalised(balance * (set_augmented - random_augmented) + (1 - balance) * (set_plain - random_plain))


def score_columns(accuracies: Mapping[Any, float], balance: float = BALANCE) -> dict[str, float]:
    """Return the scores that ``accuracies`` (percent, named as the arguments of the two scores) suffice for.

    LRS comes with its parts ``hard_label_recovery`` and ``improvement_over_random``, in percentage points."""
    columns: dict[str, float] = {}
    if set(LRS_PARTS) <= set(accuracies):
        columns["hard_label_recovery"] = accuracies["full_hard"] - accuracies["set_hard"]
        columns["improvement_over_random"] = accuracies["set_soft"] - accuracies["random_soft"]
        columns["lrs"] = label_robust_score(**{name: accuracies[name] / 100 for name in LRS_PARTS}, balance=balance)
    if set(ARS_PARTS) <= set(accuracies):
        parts = {name: accuracies[name] / 100 for name in ARS_PARTS}
        columns["ars"] = augmentation_robust_score(**parts, balance=balance)
    return columns


def best_on_validation(*frames: pd.DataFrame) -> pd.DataFrame:
    """Return, of several runs that differ in their protocol's learning rate, each cell's best row on validation.

    Frames are those of :func:`~ddoq_plugin.report.load_rows`; a cell is a method, its label, IPC, K, student and seed.
    """
    rows = pd.concat(frames, ignore_index=True)
    order = rows[(rows["status"] == "done") & rows["val_top1"].notna()]
    order = order.sort_values("val_top1", ascending=False, kind="stable")
    return make_frame(order.drop_duplicates(["method", "label", "clusters", *CELL]))


def random_labels(frame: pd.DataFrame) -> list[str]:
    """Return the labels of random selection: of the reference methods that pick real images."""
    methods = [name for name in references_of(frame) if not has_flag(name, "makes_images")]
    return list(frame.loc[frame["method"].isin(methods), "label"].unique())


def scores_from_rows(
    soft: pd.DataFrame, *, hard: pd.DataFrame | None = None, plain: pd.DataFrame | None = None,
    reference: str | None = None, balance: float = BALANCE,
) -> pd.DataFrame:  # fmt: skip
    """Return LRS and ARS of every distilled set in the rows of sweeps, one line a set, student and seed.

    ``soft`` holds rows of students trained with soft labels and augmentation. ``hard`` holds rows of the same sets
    trained with class labels, and the full data (LRS needs them); ``plain`` those with soft labels without augmentation
    (ARS needs them). ``reference`` is the label of the random sets; None: that of the reference method that picks real
    images. ``balance`` is w of LRS and g of ARS. Columns are label, ipc, clusters, student, seed, the accuracies
    (percent; full data and reference of the same student and seed), and ``lrs`` and ``ars`` where their rows are there.
    Raises EvaluationError where the reference has no rows, neither ``hard`` nor ``plain`` is given, or a set is not the
    same in all rows (by its hash)."""
    if hard is None and plain is None:
        raise EvaluationError("scores need rows trained with class labels (LRS) or without augmentation (ARS)")
    _check_same_sets([part for part in (soft, hard, plain) if part is not None])
    found = _sets(soft).rename(columns={"top1": "set_soft"})
    columns = {"random_soft": _reference(soft, reference)}
    if hard is not None:
        full = _finished(hard[hard["method"] == FULL_DATA])[["student", "seed", "top1"]]
        columns |= {"set_hard": _sets(hard), "full_hard": full}
    if plain is not None:
        columns |= {"set_plain": _sets(plain), "random_plain": _reference(plain, reference)}
    for name, values in columns.items():
        keys = [column for column in values.columns if column != "top1"]
        found = found.merge(values.rename(columns={"top1": name}), on=keys, how="left")
    if plain is not None:
        found = found.assign(set_augmented=found["set_soft"], random_augmented=found["random_soft"])
    accuracies = found.filter([*LRS_PARTS, *ARS_PARTS]).to_dict("index")
    known = [{str(name): value for name, value in row.items() if not pd.isna(value)} for row in accuracies.values()]
    scores = [score_columns(row, balance) for row in known]
    return pd.concat([found, pd.DataFrame(scores, index=found.index)], axis=1)


def _finished(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[(frame["status"] == "done") & frame["top1"].notna()]


def _sets(frame: pd.DataFrame) -> pd.DataFrame:
    return _finished(distilled_rows(frame))[["label", "clusters", *CELL, "top1"]].reset_index(drop=True)


def _check_same_sets(frames: Sequence[pd.DataFrame]) -> None:
    """Raise EvaluationError where a set of one name has several hashes: its accuracies belong to different images."""
    keys = ["label", "clusters", "ipc", "seed"]
    rows = [distilled_rows(frame) for frame in frames if "set_hash" in frame.columns]
    if not rows:
        return
    known = pd.concat(rows).dropna(subset="set_hash").drop_duplicates([*keys, "set_hash"])
    doubled = known[known.duplicated(keys)]
    if len(doubled):
        first = doubled.iloc[0]
        raise EvaluationError(
            f"{row_key(first)}, seed {first['seed']}, is not the same set in all runs (other settings, prior or code); "
            "run them with one store and the same methods"
        )


def _reference(frame: pd.DataFrame, label: str | None) -> pd.DataFrame:
    rows = _sets(frame)
    rows = rows[rows["label"].isin(random_labels(frame)[:1] if label is None else [label])]
    if rows.empty:
        which = "of random selection" if label is None else f"labelled {label!r}"
        raise EvaluationError(f"the rows have no sets {which} to compare with; add that method to the sweep")
    return rows[[*CELL, "top1"]]


def _normalised(value: float) -> float:
    return (math.exp(value) - math.exp(-1)) / (math.e - math.exp(-1))


def _check(**fractions: float) -> None:
    for name, value in fractions.items():
        if not 0 <= value <= 1:
            raise EvaluationError(f"{name} must be a fraction in [0, 1], not {value:g}; divide percent by 100")
