"""Which lines of a table are compared with which, and what the paired tests say."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from ..registry import DISTILLERS
from .rows import RowKey, Values, distilled_rows, lines_of, row_key, students_of, values_by_seed
from .statistics import PairedTest, holm, paired_t_test

SIGNS = "†‡§¶"  # of the references in a table, in the order of their names
ALPHA = 0.05


@dataclass(frozen=True)
class Comparison:
    """A line against a line of the reference ``method`` with its ``sign``, for one student, over the seeds of both.

    ``test_id`` is the same for comparisons of the very same sets, which are one test. ``p_holm`` is adjusted over all
    tests made together; NaN where there is no test."""

    line: RowKey
    reference: RowKey
    method: str
    sign: str
    student: str
    test: PairedTest
    test_id: tuple
    p_holm: float = math.nan

    @property
    def mark(self) -> str:
        """The sign for a table: the reference's where it differs at 5 % after the correction."""
        return self.sign if self.p_holm < ALPHA else ""  # none for NaN


def compare_with_references(frame: pd.DataFrame, metric: str = "top1") -> list[Comparison]:
    """Test every line against the reference methods (:func:`references_of`): paired over seeds, same student and IPC.

    A reference's line with the same number of clusters is taken, or else that with as many clusters as images per
    class. Lines that are the same sets are one test, and are not tested against each other. Holm's correction runs
    over all tests together."""
    values = values_by_seed(distilled_rows(frame), metric)
    finished, same, made = {line for line, _ in values}, identical_lines(frame), []
    signs = references_of(frame)
    for line, method, reference in reference_pairs(frame):
        sets = same.get(line, line), same.get(reference, reference)
        for student in students_of(frame) if line in finished and sets[0] != sets[1] else ():
            ours, theirs = values.get((line, student), {}), values.get((reference, student), {})
            seeds = sorted(ours.keys() & theirs.keys())
            test = paired_t_test([ours[seed] for seed in seeds], [theirs[seed] for seed in seeds])
            made.append(Comparison(line, reference, method, signs[method], student, test, (*sets, student)))
    tests = {one.test_id: one.test.p for one in made}
    adjusted = dict(zip(tests, holm(list(tests.values())), strict=True))
    return [replace(one, p_holm=adjusted[one.test_id]) for one in made]


def references_of(frame: pd.DataFrame) -> dict[str, str]:
    """Return {method: sign} of the reference methods in a frame: those registered with the flag ``reference``."""
    methods = sorted(method for method in frame["method"].dropna().unique() if has_flag(method, "reference"))
    return {method: SIGNS[place % len(SIGNS)] for place, method in enumerate(methods)}


def has_flag(method: str, flag: str) -> bool:
    """Return a flag of a registered method; False for one that is not registered here."""
    return method in DISTILLERS and bool(getattr(DISTILLERS.load(method), flag, False))


def reference_pairs(frame: pd.DataFrame) -> list[tuple[RowKey, str, RowKey]]:
    """Return (line, reference method, its line) for all lines that are compared; two references in one direction only.

    See :func:`reference_line`."""
    methods = {row_key(row): str(row["method"]) for row in frame.to_dict("records")}
    order = list(references_of(frame))
    pairs = []
    for line in lines_of(distilled_rows(frame)):
        own = order.index(methods[line]) if methods[line] in order else -1
        pairs += [(line, method, reference_line(frame, method, line)) for method in order[own + 1 :]]
    return [pair for pair in pairs if pair[2] is not None]


def reference_line(frame: pd.DataFrame, method: str, line: RowKey) -> RowKey | None:
    """Return the line of ``method`` that ``line`` is compared with, or None.

    Where a sweep varies the settings of the method, its line with the shortest label is taken: the plain one."""
    keys = {row_key(row) for row in frame[frame["method"] == method].to_dict("records")}
    candidates = [key for key in keys if key.ipc == line.ipc and key.clusters in (None, line.clusters, line.ipc)]
    return min(candidates, key=lambda key: (key.clusters != line.clusters, len(key.label), key.label), default=None)


def identical_lines(frame: pd.DataFrame) -> dict[RowKey, RowKey]:
    """Return {line: the first line that has the very same sets for every seed} for lines that are not the first."""
    first: dict[tuple, RowKey] = {}
    hashes = _hashes(frame, "set_hash").items()
    earlier = {line: first.setdefault((line.ipc, frozenset(by_seed)), line) for line, by_seed in hashes}
    return {line: other for line, other in earlier.items() if other != line}


def weighting_pairs(frame: pd.DataFrame) -> list[tuple[RowKey, RowKey]]:
    """Return (weighted line, line of equal weights) wherever both are the same images for every seed, with the same K,
    and only the weights differ."""
    known = frame[frame["weighted"].notna()]
    images, same = _hashes(known, "image_hash"), identical_lines(frame)
    weighted = {row_key(row) for row in known[known["image_hash"].notna() & known["weighted"]].to_dict("records")}
    return [
        (line, other)
        for line in images
        for other in images
        if line in weighted and other not in weighted and images[line] == images[other]
        and (line.ipc, line.clusters) == (other.ipc, other.clusters) and same.get(line, line) != same.get(other, other)
    ]  # fmt: skip


def _hashes(frame: pd.DataFrame, column: str) -> dict[RowKey, set[tuple[int, str]]]:
    """Return {line: {(seed, hash)}} of distilled sets, in the order of the rows; rows without a hash count not."""
    found: dict[RowKey, set[tuple[int, str]]] = {}
    for row in distilled_rows(frame).dropna(subset=column).to_dict("records"):
        found.setdefault(row_key(row), set()).add((int(row["seed"]), str(row[column])))
    return found


def mean_over_students(values: Values, line: RowKey, students: Sequence[str]) -> dict[int, float]:
    """Return {seed: mean over students} for the seeds that every student has."""
    of_line = [values.get((line, student), {}) for student in students]
    seeds = set.intersection(*map(set, of_line)) if of_line else set()
    return {seed: sum(by_seed[seed] for by_seed in of_line) / len(of_line) for seed in sorted(seeds)}
