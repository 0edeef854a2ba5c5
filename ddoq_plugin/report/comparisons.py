"""Which lines of a table are compared with which, and what the paired tests say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from ..registry import DISTILLERS
from .rows import RowKey, distilled_rows, lines_of, row_key, students_of, values_by_seed
from .statistics import PairedTest, holm, paired_t_test

SIGNS = "†‡§¶"  # of the references in a table, in the order of their names
ALPHA = 0.05


@dataclass(frozen=True)
class Comparison:
    """A line against a reference line, for one student, over the seeds that both have.

    ``test_id`` is the same for comparisons of the very same sets, which are one test. ``p_holm`` is adjusted over all
    tests made together; NaN where there is no test. ``sign`` is the reference's.
    """

    line: RowKey
    reference: RowKey
    method: str
    sign: str
    student: str
    test: PairedTest
    test_id: tuple
    p_holm: float = math.nan

    @property
    def significant(self) -> bool:
        """Whether the difference is significant at 5 % after the correction."""
        return self.p_holm < ALPHA  # False for NaN

    @property
    def mark(self) -> str:
        """The sign for a table: the reference's where a test says that it differs."""
        return self.sign if self.significant else ""


def compare_with_references(frame: pd.DataFrame, metric: str = "top1") -> list[Comparison]:
    """Test every line against the reference methods (:func:`references_of`): paired over seeds, same student and IPC.

    A reference's line with the same number of clusters is taken, or else that with as many clusters as images per
    class. Lines that are the same sets are one test, and are not tested against each other. Holm's correction runs
    over all tests together.
    """
    values = values_by_seed(distilled_rows(frame), metric)
    same, methods, references = identical_lines(frame), methods_of(frame), references_of(frame)
    made = []
    for line in [line for line in lines_of(distilled_rows(frame)) if any(key == line for key, _ in values)]:
        for method, sign in references.items():
            reference = reference_line(frame, method, line)
            if reference is None or not comparable(methods[line], method, references):
                continue
            if same.get(line, line) == same.get(reference, reference):
                continue
            for student in students_of(frame):
                pair = values.get((line, student), {}), values.get((reference, student), {})
                test_id = (same.get(line, line), same.get(reference, reference), student)
                made.append(Comparison(line, reference, method, sign, student, paired_test(*pair), test_id))
    tests = {one.test_id: one.test.p for one in made}
    adjusted = dict(zip(tests, holm(list(tests.values())), strict=True))
    return [replace(one, p_holm=adjusted[one.test_id]) for one in made]


def number_of_tests(comparisons: Sequence[Comparison]) -> int:
    """Return how many tests there are among ``comparisons``, those of the very same sets counted once."""
    return len({one.test_id for one in comparisons if not math.isnan(one.test.p)})


def references_of(frame: pd.DataFrame) -> dict[str, str]:
    """Return {method: sign} of the reference methods in a frame: those registered with the flag ``reference``."""
    methods = sorted(method for method in frame["method"].dropna().unique() if has_flag(method, "reference"))
    return {method: SIGNS[place % len(SIGNS)] for place, method in enumerate(methods)}


def has_flag(method: str, flag: str) -> bool:
    """Return a flag of a registered method; False for one that is not registered here."""
    return method in DISTILLERS and bool(getattr(DISTILLERS.load(method), flag, False))


def comparable(method: str, reference: str, references: Iterable[str]) -> bool:
    """Return whether ``method`` is tested against ``reference``; two references are compared in one direction only."""
    order = list(references)
    return method not in order or order.index(method) < order.index(reference)


def methods_of(frame: pd.DataFrame) -> dict[RowKey, str]:
    """Return the method of each line."""
    return {row_key(row): str(row["method"]) for row in frame.to_dict("records")}


def paired_test(a: dict[int, float], b: dict[int, float]) -> PairedTest:
    """Test values by seed against each other over the seeds that both have."""
    seeds = sorted(a.keys() & b.keys())
    return paired_t_test([a[seed] for seed in seeds], [b[seed] for seed in seeds])


def reference_line(frame: pd.DataFrame, method: str, line: RowKey) -> RowKey | None:
    """Return the line of ``method`` that ``line`` is compared with, or None.

    Where a sweep varies the settings of the method, its line with the shortest label is taken: the plain one.
    """
    candidates = [
        key
        for key in {row_key(row) for row in frame[frame["method"] == method].to_dict("records")}
        if key.ipc == line.ipc and key.clusters in (None, line.clusters, line.ipc)
    ]
    return min(candidates, key=lambda key: (key.clusters != line.clusters, len(key.label), key.label), default=None)


def identical_lines(frame: pd.DataFrame) -> dict[RowKey, RowKey]:
    """Return {line: the first line that has the very same sets for every seed} for lines that are not the first."""
    hashes: dict[RowKey, set[tuple[int, str]]] = {}
    for row in distilled_rows(frame).to_dict("records"):
        if not pd.isna(row["set_hash"]):
            hashes.setdefault(row_key(row), set()).add((int(row["seed"]), str(row["set_hash"])))
    first: dict[tuple, RowKey] = {}
    found = {}
    for line in hashes:
        earlier = first.setdefault((line.ipc, frozenset(hashes[line])), line)
        if earlier != line:
            found[line] = earlier
    return found


def weighting_pairs(frame: pd.DataFrame) -> list[tuple[RowKey, RowKey]]:
    """Return (weighted line, line of equal weights) wherever both are the same images for every seed, with the same K,
    and only the weights differ."""
    images: dict[RowKey, set[tuple[int, str]]] = {}
    weighted: set[RowKey] = set()
    for row in distilled_rows(frame).to_dict("records"):
        if not (pd.isna(row["image_hash"]) or pd.isna(row["weighted"])):
            images.setdefault(row_key(row), set()).add((int(row["seed"]), str(row["image_hash"])))
            weighted |= {row_key(row)} if row["weighted"] else set()
    same = identical_lines(frame)
    return [
        (line, other)
        for line in images
        for other in images
        if line in weighted and other not in weighted and images[line] == images[other]
        and (line.ipc, line.clusters) == (other.ipc, other.clusters) and same.get(line, line) != same.get(other, other)
    ]  # fmt: skip


def mean_over_students(
    values: dict[tuple[RowKey, str], dict[int, float]], line: RowKey, students: Sequence[str]
) -> dict:
    """Return {seed: mean over students} for the seeds that every student has."""
    of_line = [values.get((line, student), {}) for student in students]
    seeds = set.intersection(*map(set, of_line)) if of_line else set()
    return {seed: sum(by_seed[seed] for by_seed in of_line) / len(of_line) for seed in sorted(seeds)}
