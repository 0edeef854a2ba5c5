"""What the rows support and what they do not, in plain sentences; every figure comes from the rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from .comparisons import ALPHA, comparable, mean_over_students, reference_line, references_of, weighting_pairs
from .diagnostics import CONVERGED_WITHIN, convergence_table
from .rows import FULL_DATA, RowKey, distilled_rows, lines_of, row_key, students_of, trained_rows, values_by_seed
from .statistics import PairedTest, detectable_difference, holm, paired_t_test
from .tables import points

LONGEST_REASON = 160  # characters of an error message that a sentence quotes

Values = dict[tuple[RowKey, str], dict[int, float]]


@dataclass(frozen=True)
class Pooled:
    """One method against another over all cells that both have, tested over the seeds' mean differences."""

    subject: str
    other: str
    relation: str
    pairs: int
    test: PairedTest


def findings(frame: pd.DataFrame, metric: str = "top1") -> list[str]:
    """Return sentences on what result rows show: weights alone, against the references, ceiling, failures.

    A comparison of two methods takes all (IPC, clusters, student, seed) that both have, averages the differences of
    each seed, and tests these averages against 0 (paired t test over seeds, Holm's correction over the sentences).

    Args:
        frame: result rows of one dataset, prior, teacher and protocol.
        metric: the accuracy to speak of.
    """
    frame = trained_rows(frame)
    values = values_by_seed(frame, metric)
    said = _best_per_ipc(frame, values)
    pooled = _weights_alone(frame, values)
    for method in references_of(frame):
        pooled += _against(frame, values, method)
    adjusted = holm([one.test.p for one in pooled])
    said += [_sentence(one, p, len(pooled)) for one, p in zip(pooled, adjusted, strict=True)]
    said += _limits(pooled)
    said += _convergence(frame)
    said += _failures(frame)
    return said


def _best_per_ipc(frame: pd.DataFrame, values: Values) -> list[str]:
    students = students_of(frame)
    lines = lines_of(frame[frame["method"] == FULL_DATA])
    full = [mean_over_students(values, line, students) for line in lines]
    ceiling = f"; full data: {_spread(full[0].values())}" if full and full[0] else ""
    said = []
    lines = lines_of(distilled_rows(frame))
    for ipc in sorted({line.ipc for line in lines if line.ipc is not None}):
        means = {line: mean_over_students(values, line, students) for line in lines if line.ipc == ipc}
        means = {line: by_seed for line, by_seed in means.items() if by_seed}
        if len(means) < 2:
            continue
        order = sorted(means, key=lambda line: -statistics.fmean(means[line].values()))
        high, low = order[0], order[-1]
        said.append(
            f"IPC {ipc}, mean over {len(students)} students: highest {_short(high)} {_spread(means[high].values())}, "
            f"lowest {_short(low)} {_spread(means[low].values())}{ceiling}."
        )
    return said


def _weights_alone(frame: pd.DataFrame, values: Values) -> list[Pooled]:
    """Compare weightings of the very same images, one sentence for each pair of labels."""
    return _by_label(weighting_pairs(frame), "same images, only the weights differ", values)


def _against(frame: pd.DataFrame, values: Values, method: str) -> list[Pooled]:
    """Compare every label with the reference ``method``, IPC by IPC and K by K."""
    pairs, references = [], references_of(frame)
    for row in distilled_rows(frame).drop_duplicates(["label", "ipc", "clusters"]).to_dict("records"):
        reference = reference_line(frame, method, row_key(row))
        if reference is not None and comparable(row["method"], method, references):
            pairs.append((row_key(row), reference))
    return _by_label(pairs, "same seeds and students", values)


def _by_label(pairs: Iterable[tuple[RowKey, RowKey]], relation: str, values: Values) -> list[Pooled]:
    grouped: dict[tuple[str, str], list[tuple[RowKey, RowKey]]] = {}
    for line, other in pairs:
        grouped.setdefault((line.label, other.label), []).append((line, other))
    return [_pool(*labels, relation, found, values) for labels, found in sorted(grouped.items())]


def _pool(subject: str, other: str, relation: str, pairs: Iterable[tuple[RowKey, RowKey]], values: Values) -> Pooled:
    differences: dict[int, list[float]] = {}
    for line, reference in pairs:
        for student in {student for _, student in values}:
            ours, theirs = values.get((line, student), {}), values.get((reference, student), {})
            for seed in ours.keys() & theirs.keys():
                differences.setdefault(seed, []).append(ours[seed] - theirs[seed])
    means = [statistics.fmean(differences[seed]) for seed in sorted(differences)]
    count = sum(map(len, differences.values()))
    return Pooled(subject, other, relation, count, paired_t_test(means, [0.0] * len(means)))


def _sentence(one: Pooled, p_holm: float, count: int) -> str:
    test = one.test
    what = f"{one.subject} against {one.other} ({one.relation})"
    if test.n == 0:
        return f"{what}: no pair of finished rows, nothing to compare."
    spread = "" if math.isnan(test.std) else f" ± {test.std:.1f}"
    seeds = f"{test.n} seed" + ("s" if test.n > 1 else "")
    figures = f"{test.mean:+.1f}{spread} points, mean over {one.pairs} pairs, spread over {seeds}"
    if test.n < 2:
        return f"{what}: {figures}; one seed supports no statement."
    if test.no_variance:
        return f"{what}: {figures}; the differences do not vary, no test."
    verdict = "higher" if test.mean > 0 else "lower"
    known = f"p {_p(test.p)}, corrected {_p(p_holm)} over {count} comparisons"
    return f"{what}: {figures}; {verdict if p_holm < ALPHA else 'not distinguishable'} ({known})."


def _limits(pooled: list[Pooled]) -> list[str]:
    tests = [one.test for one in pooled if not math.isnan(one.test.p)]
    if not tests:
        return []
    n = statistics.mode(test.n for test in tests)
    spread = statistics.median(test.std for test in tests if test.n == n)
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
    return [f"{len(failed)} of {len(frame)} rows failed; most often: {_one_line(str(reasons.index[0]))}"]


def _one_line(text: str) -> str:
    line = text.strip().partition("\n")[0]
    return line if len(line) <= LONGEST_REASON else line[: LONGEST_REASON - 3] + "..."


def _short(line: RowKey) -> str:
    return line.label + ("" if line.clusters is None else f" (K = {line.clusters})")


def _spread(found: Iterable[float]) -> str:
    values = list(found)
    return f"{statistics.fmean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.2g}"
