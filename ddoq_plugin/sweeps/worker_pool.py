"""A pool of workers: Ray actors that hold one session each and are fed one task at a time.

Actors rather than Ray tasks, since a worker keeps what is expensive (torch, the pipeline) from task to task, and is
gone, with its memory, when the pool shuts down. Whatever dies, the pool goes on: a task whose worker or node died is
given to another worker, a worker that cannot be scheduled does not block the others, and a node that joins gets workers
while tasks wait. Nothing but references and small results passes through the driver."""

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import ray

from ..config import StageResources
from ..errors import DDOQError
from .worker import StageWorker

ATTEMPTS = 3  # a task that ended its worker so often is given up
FAILED_STARTS = 5  # so many workers in a row that died before their first task: no more are started
LOOK = 2.0  # seconds between looks at which nodes there are
GIB = 2**30


class WorkerLost(DDOQError):
    """A task ended its worker process again and again."""


@dataclass(eq=False)
class Task:
    """One task of ``worker.TASKS`` by name, its argument, a title for messages, and what came of it."""

    name: str
    argument: Any
    title: str
    attempts: int = 0
    done: bool = False
    result: Any = None
    messages: tuple[str, ...] = ()
    problem: Exception | None = None

    def end(self, result: Any = None, messages: Iterable[str] = (), problem: Exception | None = None) -> None:
        self.done, self.result, self.messages, self.problem = True, result, tuple(messages), problem


class WorkerPool:
    """Workers of one kind of resources. ``shared`` is a reference to what :class:`StageWorker` is made from."""

    def __init__(self, shared: Any, resources: StageResources, say: Callable[[str], None]) -> None:
        asked: dict[str, Any] = {"num_cpus": resources.cpus, "num_gpus": resources.gpus}
        if resources.memory_gb is not None:
            asked["memory"] = int(resources.memory_gb * GIB)
        self.resources, self._shared, self._say = resources, shared, say
        self._actor_class = ray.remote(StageWorker).options(**asked)
        self._waiting: deque[Task] = deque()
        self._idle: list[tuple[Any, str]] = []  # actors, and the nodes that they are on
        self._joining: dict[Any, Any] = {}  # actors by the reference of the first answer
        self._busy: dict[Any, tuple[Any, str, Task]] = {}
        self._failed_starts, self._last_failure = 0, ""
        self._looked, self._slots = 0.0, 1

    def submit(self, name: str, argument: Any, title: str) -> Task:
        """Queue a task; it runs while some :meth:`finish` waits, and to its end once a worker has it."""
        task = Task(name, argument, title)
        self._waiting.append(task)
        return task

    def finish(self, tasks: Iterable[Task], shown: Any) -> None:
        """Return when these tasks are done, well or not; ``shown`` is a progress bar."""
        unfinished = {task for task in tasks if not task.done}
        self._advance()
        while unfinished:
            ended = unfinished.intersection(self._turn())
            unfinished -= ended
            shown.update(len(ended))
            shown.refresh()

    def release_idle(self) -> None:
        """End the workers that have nothing to do, so that others can use their share."""
        for actor in [*(actor for actor, _ in self._idle), *self._joining.values()]:
            ray.kill(actor)
        self._idle, self._joining = [], {}

    def shutdown(self) -> None:
        """End every worker; what is still queued is forgotten."""
        self.release_idle()
        for actor, _, _ in self._busy.values():
            ray.kill(actor)
        self._busy, self._waiting = {}, deque()

    def _turn(self) -> list[Task]:
        """Wait for one answer, or for ``LOOK`` seconds, act on it, and return the tasks that are done by it."""
        references, ended = [*self._busy, *self._joining], []
        if not references:
            time.sleep(LOOK)
        for reference in ray.wait(references, timeout=LOOK)[0] if references else ():
            if reference in self._joining:
                self._welcome(reference, self._joining.pop(reference))
                continue
            actor, node, task = self._busy.pop(reference)
            self._collect(reference, actor, node, task)
            if task.done:
                ended.append(task)
        self._advance()
        return ended

    def _advance(self) -> None:
        """Give waiting tasks to idle workers and, where nodes have room for more workers, start some."""
        while self._waiting and self._idle:
            task, (actor, node) = self._waiting.popleft(), self._idle.pop()
            self._busy[actor.run.remote(task.name, task.argument)] = (actor, node, task)
        if not self._waiting:
            return
        if self._failed_starts >= FAILED_STARTS:
            if not (self._busy or self._joining):
                raise DDOQError(f"no worker can be started; the last died so: {self._last_failure}")
            return  # the living go on
        if time.monotonic() - self._looked > LOOK:
            before, self._slots, self._looked = self._slots, slots(self.resources), time.monotonic()
            if before and not self._slots:
                self._say(f"no node has {describe(self.resources)} any more: waiting for one to join")
        wanted = min(self._slots, len(self._waiting) + len(self._busy))
        for _ in range(wanted - len(self._busy) - len(self._joining) - len(self._idle)):
            actor = self._actor_class.remote(self._shared)
            self._joining[actor.hello.remote()] = actor

    def _welcome(self, reference: Any, actor: Any) -> None:
        try:
            self._idle.append((actor, ray.get(reference)))
            self._failed_starts = 0
        except ray.exceptions.RayError as problem:
            ray.kill(actor)
            self._failed_starts, self._last_failure = self._failed_starts + 1, _reason(problem)

    def _collect(self, reference: Any, actor: Any, node: str, task: Task) -> None:
        """End a task by its answer; where the worker is gone, queue it again unless it has ended too many workers."""
        try:
            task.end(*ray.get(reference))
        except ray.exceptions.RayTaskError as problem:  # the task's own error
            cause = problem.cause if isinstance(problem.cause, Exception) else problem
            if cause is not problem:
                cause.__cause__ = problem  # it holds the worker's traceback
            task.end(problem=cause)
        except ray.exceptions.RayError as problem:  # the worker or its node is gone
            self._looked = 0.0
            task.attempts += any(one["NodeID"] == node for one in live_nodes())  # the loss of a node is not its fault
            ray.kill(actor)
            if task.attempts < ATTEMPTS:
                self._waiting.appendleft(task)
                return
            text = f"{task.title} ended its worker process {ATTEMPTS} times (out of memory?): {_reason(problem)}"
            task.end(problem=WorkerLost(text))
            return
        self._idle.append((actor, node))


def live_nodes() -> list[dict[str, Any]]:
    """Return the cluster's living nodes."""
    return [node for node in ray.nodes() if node["Alive"]]


def slots(resources: StageResources) -> int:
    """Return how many workers of these resources the living nodes can hold."""
    asked = {"CPU": resources.cpus, "GPU": resources.gpus, "memory": (resources.memory_gb or 0) * GIB}
    asked = {name: amount for name, amount in asked.items() if amount}
    return sum(
        min(int(node["Resources"].get(name, 0) / amount + 1e-9) for name, amount in asked.items())
        for node in live_nodes()
    )


def check_resources(stage: str, resources: StageResources) -> None:
    """Raise DDOQError where no node has what one worker of a stage asks for."""
    if not slots(resources):
        nodes = [node["Resources"] for node in live_nodes()]
        most = {name: max((node.get(name, 0) for node in nodes), default=0) for name in ("CPU", "GPU", "memory")}
        had = f"{most['CPU']:g} CPUs, {most['GPU']:g} GPUs, {most['memory'] / GIB:.1f} GiB"
        raise DDOQError(
            f"a worker of the stage {stage!r} asks for {describe(resources)} and no node of Ray has that (at most "
            f"{had}); lower resources: in the config"
        )


def describe(resources: StageResources) -> str:
    """Return the resources in words."""
    memory = "" if resources.memory_gb is None else f", {resources.memory_gb:g} GiB"
    return f"{resources.cpus:g} CPUs, {resources.gpus:g} GPUs{memory}"


def _reason(problem: Exception) -> str:
    """Return the line of Ray's message that says how a process ended."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    telling = next((line for line in lines if "memory" in line.lower() or "exit" in line.lower()), None)
    return (telling or (lines[0] if lines else type(problem).__name__))[:300]
