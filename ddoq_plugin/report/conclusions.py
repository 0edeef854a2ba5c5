"""What the rows support and what they do not, in plain sentences; every figure comes from the rows."""

import math
import statistics
from collections.abc import Iterable

import pandas as pd

from ..record import FULL_DATA
from .comparisons import ALPHA, mean_over_students, reference_pairs, references_of, weighting_pairs
from .diagnostics import CONVERGED_WITHIN, convergence_table
from .rows import RowKey, Values, distilled_rows, lines_of, students_of, trained_rows, values_by_seed
from .statistics import PairedTest, detectable_difference, holm, paired_t_test
from .tables import points, usual_spread

LONGEST_REASON = 160  # characters of an error message that a sentence quotes

Pooled = tuple[str, int, PairedTest]  # what is compared, over how many pairs, and the test over seeds


def findings(frame: pd.DataFrame, metric: str = "top1") -> list[str]:
    """Return sentences on what result rows show: weights alone, against the references, ceiling, failures.

    The rows are of one dataset, prior, teacher and protocol; ``metric`` is the accuracy to speak of. A comparison of
    two methods takes all (IPC, clusters, student, seed) that both have, averages the differences of each seed, and
    tests these averages against 0 (paired t test over seeds, Holm's correction over the sentences)."""
    frame = trained_rows(frame)
    values, compared = values_by_seed(frame, metric), reference_pairs(frame)
    pooled = _pooled(weighting_pairs(frame), "same images, only the weights differ", values)
    for method in references_of(frame):
        pairs = [(line, reference) for line, name, reference in compared if name == method]
        pooled += _pooled(pairs, "same seeds and students", values)
    adjusted = holm([test.p for _, _, test in pooled])
    said = [_sentence(*one, p_holm, len(pooled)) for one, p_holm in zip(pooled, adjusted, strict=True)]
    limits = _limits([test for _, _, test in pooled if not math.isnan(test.p)])
    return [*_best_per_ipc(frame, values), *said, *limits, *_convergence(frame), *_failures(frame)]


def _best_per_ipc(frame: pd.DataFrame, values: Values) -> list[str]:
    students = students_of(frame)
    full = [mean_over_students(values, line, students) for line in lines_of(frame[frame["method"] == FULL_DATA])]
    ceiling = f"; full data: {_spread(full[0].values())}" if full and full[0] else ""
    said = []
    lines = lines_of(distilled_rows(frame))
    for ipc in sorted({line.ipc for line in lines if line.ipc is not None}):
        means = {line: mean_over_students(values, line, students) for line in lines if line.ipc == ipc}
        known = [line for line in means if means[line]]
        order = sorted(known, key=lambda line: -statistics.fmean(means[line].values()))
        if len(order) > 1:
            high, low = (f"{_short(line)} {_spread(means[line].values())}" for line in (order[0], order[-1]))
            said.append(f"IPC {ipc}, mean over {len(students)} students: highest {high}, lowest {low}{ceiling}.")
    return said


def _pooled(pairs: Iterable[tuple[RowKey, RowKey]], relation: str, values: Values) -> list[Pooled]:
    """Test every pair of labels over the mean difference of each seed in all cells that both have."""
    differences: dict[tuple[str, str], dict[int, list[float]]] = {}
    for line, reference in pairs:
        by_seed = differences.setdefault((line.label, reference.label), {})
        for student in {student for _, student in values}:
            ours, theirs = values.get((line, student), {}), values.get((reference, student), {})
            for seed in ours.keys() & theirs.keys():
                by_seed.setdefault(seed, []).append(ours[seed] - theirs[seed])
    pooled = []
    for (subject, other), by_seed in sorted(differences.items()):
        means = [statistics.fmean(by_seed[seed]) for seed in sorted(by_seed)]
        test = paired_t_test(means, [0.0] * len(means))
        pooled.append((f"{subject} against {other} ({relation})", sum(map(len, by_seed.values())), test))
    return pooled


def _sentence(what: str, pairs: int, test: PairedTest, p_holm: float, count: int) -> str:
    if test.n == 0:
        return f"{what}: no pair of finished rows, nothing to compare."
    spread = "" if math.isnan(test.std) else f" ± {test.std:.1f}"
    seeds = f"{test.n} seed" + ("s" if test.n > 1 else "")
    figures = f"{test.mean:+.1f}{spread} points, mean over {pairs} pairs, spread over {seeds}"
    if test.n < 2:
        return f"{what}: {figures}; one seed supports no statement."
    if test.no_variance:
        return f"{what}: {figures}; the differences do not vary, no test."
    verdict = "higher" if test.mean > 0 else "lower"
    known = f"p {_p(test.p)}, corrected {_p(p_holm)} over {count} comparisons"
    return f"{what}: {figures}; {verdict if p_holm < ALPHA else 'not distinguishable'} ({known})."


def _limits(tests: list[PairedTest]) -> list[str]:
    if not tests:
        return []
    n, spread = usual_spread(tests)
    return [
        f"Not supported: statements on differences under about {points(detectable_difference(n, spread))} points "
        f"between methods as a whole ({n} seeds, 80 % power, before correction), or on other data, priors, teachers "
        "and protocols: seeds vary distillation and student, not prior and teacher."
    ]


def _convergence(frame: pd.DataFrame) -> list[str]:
    table = convergence_table(frame)
    if not len(table):
        return []
    short = table[table["converged"] == "no"]
    if not len(short):
        within = f"within {CONVERGED_WITHIN:g} point of twice the steps"
        return [f"Every student counts as converged (full-data validation {within})."]
    named = ", ".join(f"{row['student']} ({row['difference']:+.1f})" for row in short.to_dict("records"))
    return [
        f"Not converged, by full-data validation at twice the steps: {named}; their figures depend on the step count."
    ]


def _failures(frame: pd.DataFrame) -> list[str]:
    failed = frame[frame["status"] == "failed"]
    if not len(failed):
        return []
    reasons = failed["error"].fillna("no reason given").value_counts()
    reason = str(reasons.index[0]).strip().partition("\n")[0]
    reason = reason if len(reason) <= LONGEST_REASON else reason[: LONGEST_REASON - 3] + "..."
    return [f"{len(failed)} of {len(frame)} rows failed; most often: {reason}"]


def _short(line: RowKey) -> str:
    return line.label + ("" if line.clusters is None else f" (K = {line.clusters})")


def _spread(found: Iterable[float]) -> str:
    values = list(found)
    return f"{statistics.fmean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.2g}"
