"""Timing side by side: every contender runs once a round, in one process and on one thread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Measured:
    """Processor seconds of each round and what the last round returned."""

    seconds: list[float] = field(default_factory=list)
    result: object = None

    @property
    def milliseconds(self) -> float:
        return 1000 * statistics.median(self.seconds)

    def ratio(self, reference: Measured) -> float:
        """Median over rounds of this contender's time over the reference's."""
        return statistics.median(a / b for a, b in zip(self.seconds, reference.seconds, strict=True))


def interleaved(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, Measured]:
    """Run each contender once to warm up and then once a round.

    Processor time is taken rather than the clock: on one thread they are the same, and what else runs on the machine
    does not count.
    """
    measured = {name: Measured() for name in contenders}
    for repetition in range(rounds + 1):
        for name, run in contenders.items():
            started = time.process_time()
            measured[name].result = run()
            if repetition > 0:
                measured[name].seconds.append(time.process_time() - started)
    return measured
