"""A pool without Ray: tasks run in this process, one after the other, with the same sessions and the same results."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import torch

from ..config import StageResources
from .worker import StageWorker
from .worker_pool import Task


class LocalPool:
    """As :class:`.worker_pool.WorkerPool`, in this process. ``about`` is what its one worker is made from."""

    def __init__(self, about: tuple[str, str, Any], resources: StageResources) -> None:
        self.resources = resources
        self._worker = StageWorker(about)
        self._waiting: deque[Task] = deque()

    def submit(self, name: str, argument: Any, title: str) -> Task:
        """Queue a task; it runs while some :meth:`finish` waits."""
        task = Task(name, argument, title)
        self._waiting.append(task)
        return task

    def finish(self, tasks: Iterable[Task], shown: Any) -> None:
        """Run what is queued until these tasks are done; ``shown`` is a progress bar."""
        left, threads = {task for task in tasks if not task.done}, torch.get_num_threads()
        torch.set_num_threads(max(1, int(self.resources.cpus)))  # as in a worker: it is part of the result's bits
        try:
            while left:
                task = self._waiting.popleft()
                try:
                    task.end(*self._worker.run(task.name, task.argument))
                except Exception as problem:
                    task.end(problem=problem)
                shown.update(int(task in left))
                left.discard(task)
        finally:
            torch.set_num_threads(threads)

    def release_idle(self) -> None:
        """There is nobody to end."""

    def shutdown(self) -> None:
        """Let the session and its memory go."""
        self._waiting = deque()
        del self._worker
