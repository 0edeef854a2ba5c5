"""Timing side by side: every contender runs once a round, in one process and on one thread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Measured:
    """Processor seconds of each round and what it returned."""

    seconds: list[float] = field(default_factory=list)
    results: list = field(default_factory=list)

    @property
    def milliseconds(self) -> float:
        return 1000 * statistics.median(self.seconds)

    def ratio(self, reference: Measured) -> float:
        """Median over rounds of this contender's time over the reference's."""
        return statistics.median(a / b for a, b in zip(self.seconds, reference.seconds, strict=True))


def interleaved(contenders: dict[str, Callable[[int], object]], rounds: int) -> dict[str, Measured]:
    """Run each contender once a round, with the number of the round as its seed.

    Processor time is taken rather than the clock: on one thread they are the same, and what else runs on the machine
    does not count.
    """
    measured = {name: Measured() for name in contenders}
    for seed in range(rounds):
        for name, run in contenders.items():
            started = time.process_time()
            result = run(seed)
            measured[name].seconds.append(time.process_time() - started)
            measured[name].results.append(result)
    return measured
