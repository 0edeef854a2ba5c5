"""The stages of a sweep on a Ray cluster: check, prior and teacher, encode, quantise, generate, assemble, label.

One pool is at work at a time. Stages that ask for the same resources share it; otherwise it is dismissed, so that its
memory is free before the next stage begins. (Students are trained by Ray Tune, in ``trials.py``.)
"""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..config import STAGES
from ..errors import DataError, DDOQError
from ..progress import bar
from .grid import SetSpec
from .jobs import Job, codebook_jobs, encode_jobs, generate_jobs
from .session import SweepSession
from .shared import SharedFacts, is_index
from .worker_pool import Item, WorkerLost, WorkerPool, check_resources

RESOURCES = {"check": "encode", "prior": "train", "teacher": "train", "assemble": "generate"}  # the rest: their own


class Stages:
    """Runs stages of a driver's session. Ray is connected to when it is first needed, and left in the end.

    ``address`` is a cluster's; None starts Ray on this machine. Raises DDOQError where no cluster answers or no node
    has what a worker asks for.
    """

    def __init__(
        self, session: SweepSession, address: str | None, say: Callable[[str], None], *, progress: bool
    ) -> None:
        self.session, self.config, self._address, self._say = session, session.config, address, say
        self._progress, self._text = progress, session.config.model_dump_json()
        self._known: SharedFacts | None = None
        self._pool: WorkerPool | None = None
        self._started_ray = False

    def __enter__(self) -> Stages:
        return self

    def __exit__(self, *problem: object) -> None:
        self.dismiss()
        if self._started_ray:
            import ray

            ray.shutdown()

    @property
    def known(self) -> SharedFacts:
        """What workers are told; connects to Ray."""
        if self._known is None:
            import ray

            if not ray.is_initialized():
                self._say("starting Ray" if self._address is None else f"connecting to Ray at {self._address}")
                connect(self._address)
                self._started_ray = True
            for stage in STAGES:
                check_resources(stage, self.config.resources.of(stage))
            data = self.session.data
            self._known = SharedFacts(ray.put(data) if is_index(data) else None, self.session.prior_facts)
        return self._known

    def submit(self, stage: str, job: Job) -> Item:
        """Queue one job of a stage; see :meth:`finish`."""
        import ray

        known, kind = self.known, RESOURCES.get(stage, stage)
        resources = self.config.resources.of(kind)
        if self._pool is None or self._pool.resources != resources:
            self.dismiss()
            self._pool = WorkerPool(ray.put((self._text, kind, known)), resources, self._say)
        return self._pool.submit(stage, job.argument, job.title)

    def finish(self, items: Sequence[Item], description: str) -> None:
        """Wait for items of the last stage that was submitted, and repeat the warnings of their workers."""
        if items:
            with bar(len(items), description, show=self._progress) as shown:
                self._pool.finish(items, shown)
        for item in items:
            for message in item.messages:
                warnings.warn(message, stacklevel=2)

    def map(self, stage: str, jobs: Iterable[Job], description: str) -> list[Item]:
        """Run a stage for every job and return the items, done, in the same order."""
        items = [self.submit(stage, job) for job in jobs]
        self.finish(items, description)
        return items

    def release_idle(self) -> None:
        """End the workers without work, so that students can use their share."""
        if self._pool is not None:
            self._pool.release_idle()

    def dismiss(self) -> None:
        """End every worker of the stages and free their memory."""
        if self._pool is not None:
            self._pool.dismiss()
            self._pool = None

    def check_images(self) -> None:
        """Read the image files that were never read; DataError names the first damaged one. Nothing for arrays."""
        unchecked = self.session.unchecked()
        names = self.session.data.class_names
        items = self.map("check", [Job(c, f"check class {names[c]!r}") for c in unchecked], "checking classes")
        problems = [item.problem for item in items if item.problem is not None]
        if problems:
            more = f" ({len(problems) - 1} more classes have such a problem)" if len(problems) > 1 else ""
            raise type(problems[0])(f"{problems[0]}{more}") if isinstance(problems[0], DataError) else problems[0]

    def prepare(self, sets: Sequence[SetSpec]) -> dict[str, WorkerLost]:
        """Encode, quantise and generate for these sets; return those, by title, whose work ended its workers.

        Any other failure is said and left: each set that needs the part will try itself, and fail with its reason.
        """
        lost: dict[str, WorkerLost] = {}
        for stage, make_jobs in (("encode", encode_jobs), ("quantise", codebook_jobs), ("generate", generate_jobs)):
            jobs = make_jobs([spec for spec in sets if spec.title not in lost], self.session.planned)
            items = self.map(stage, jobs, stage)
            for job, item in zip(jobs, items, strict=True):
                if isinstance(item.problem, WorkerLost):
                    lost |= dict.fromkeys(job.sets, item.problem)
            self.tell([item for item in items if item.problem is not None])
        return lost

    def tell(self, failed: Sequence[Item]) -> None:
        """Say what could not be made beforehand: the first problem, and how many there are."""
        if failed:
            more = f" ({len(failed) - 1} more of this stage)" if len(failed) > 1 else ""
            self._say(f"{failed[0].title} failed beforehand: {failed[0].problem}{more}")


def connect(address: str | None) -> None:
    """Connect to a cluster, or start Ray on this machine."""
    import ray

    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default of 15 halves the speed on a shared machine
    os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
    options: dict[str, Any] = {} if address else {"include_dashboard": False}
    if address is not None:
        _check_address(address)
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **options)
    except (ConnectionError, RuntimeError, ValueError) as problem:
        lines = str(problem).strip().splitlines() or [type(problem).__name__]
        where = f"to the cluster at {address}" if address else "on this machine"
        raise DDOQError(f"Ray cannot connect {where} ({lines[0][:200]}); see `ray status`") from problem


def _check_address(address: str) -> None:
    """Raise DDOQError where nothing listens at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not port.isdigit() or "/" in address:  # "auto", or a client's address
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as problem:
        message = f"no Ray cluster answers at {address} ({problem}); start one, or give its HOST:PORT"
        raise DDOQError(message) from problem
