"""What a sweep makes on a Ray cluster before its students: checks, prior and teacher, the work of sets, labels.

One pool of workers is at work at a time. Tasks that ask for the same resources share it; otherwise it is shut down, so
that its memory is free before the next begins. (Students are trained by Ray Tune, in ``trials.py``.)"""

from __future__ import annotations

import contextlib
import importlib
import os
import secrets
import socket
import tempfile
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import ray

from .. import interruptions
from ..config import STAGES, StageResources
from ..distiller import Work
from ..errors import DataError, DDOQError, StoreError
from ..outputs import check_folder
from ..progress import bar
from .grid import SetSpec
from .local_pool import LocalPool
from .log import write_log
from .session import SweepSession, is_index
from .worker import Address, Shared
from .worker_pool import Task, WorkerPool, check_resources

STARTS = 3  # of a local Ray that is slow to start
OBJECT_STORE = 256 << 20  # bytes: nothing but lists of files passes through it
LONGEST_FOLDER = 38  # bytes: a socket's path has 107, of which Ray's session takes up to 69
FEW_FILES, MANY_FILES = 512, 65536


class Stages:
    """Runs stages of a driver's session. Ray is connected to when it is first needed, and left in the end.

    ``address`` is a cluster's; None starts Ray on this machine; ``local`` does without. Raises DDOQError where no
    cluster answers or no node has what a worker asks for."""

    def __init__(
        self, session: SweepSession, address: str | None, say: Callable[[str], None], *, progress: bool, local: bool
    ) -> None:
        self.session, self.config, self._address, self._say = session, session.config, address, say
        self.local, self._progress, self._text = local, progress, session.config.model_dump_json()
        self._shared: Shared | None = None
        self._pool: WorkerPool | LocalPool | None = None
        self._started_ray = False

    def __enter__(self) -> Stages:
        return self

    def __exit__(self, *problem: object) -> None:
        self.shutdown()
        if self._started_ray:
            ray.shutdown()

    @property
    def shared(self) -> Shared:
        """What workers are told; connects to Ray."""
        if self._shared is None and self.local:
            self._shared = (self.session.data if is_index(self.session.data) else None, self.session.prior_facts)
        if self._shared is None:
            if not ray.is_initialized():
                self._say("starting Ray" if self._address is None else f"connecting to Ray at {self._address}")
                connect(self._address)
                self._started_ray = True
            for stage in STAGES:
                check_resources(stage, self.config.resources.of(stage))
            data = self.session.data
            self._shared = (ray.put(data) if is_index(data) else None, self.session.prior_facts)
        return self._shared

    def submit(self, task: str, stage: str, argument: Any, title: str) -> Task:
        """Queue a task with the resources of a stage; see :meth:`finish`."""
        shared, resources = self.shared, self.config.resources.of(stage)
        if self._pool is None or self._pool.resources != resources:
            self.shutdown()
            about = (self._text, stage, shared)
            self._pool = LocalPool(about, resources) if self.local else self._ray_pool(about, resources)
        return self._pool.submit(task, argument, title)

    def _ray_pool(self, about: tuple[str, str, Shared], resources: StageResources) -> WorkerPool:
        return WorkerPool(ray.put(about), resources, self._say)

    def finish(self, tasks: Sequence[Task], description: str) -> None:
        """Wait for tasks of the last pool that was used, and repeat the warnings of their workers.

        Raises StoreError where a worker's disk refused: that concerns all that is left."""
        if tasks:
            with bar(len(tasks), description, show=self._progress) as shown:
                self._pool.finish(tasks, shown)
        for task in tasks:
            for message in task.messages:
                warnings.warn(message, stacklevel=2)
                write_log(self.config.output_folder, f"{task.title}: {message}")
        refused = [task.problem for task in tasks if isinstance(task.problem, StoreError)]
        if refused:
            raise refused[0]

    def map(self, task: str, stage: str, arguments: Sequence[tuple[Any, str]], description: str) -> list[Task]:
        """Run a task for every (argument, title) and return them, done, in the same order."""
        tasks = [self.submit(task, stage, argument, title) for argument, title in arguments]
        self.finish(tasks, description)
        return tasks

    def release_idle(self) -> None:
        """End the workers without work, so that students can use their share."""
        if self._pool is not None:
            self._pool.release_idle()

    def shutdown(self) -> None:
        """End every worker of the stages and free their memory."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def check_images(self) -> None:
        """Read the image files that were never read; DataError names the first damaged one. Nothing for arrays."""
        names = self.session.data.class_names
        wanted = [(c, f"check class {names[c]!r}") for c in self.session.unchecked()]
        tasks = self.map("check", "encode", wanted, "checking classes")
        problems = [task.problem for task in tasks if task.problem is not None]
        if problems:
            more = f" ({len(problems) - 1} more classes have such a problem)" if len(problems) > 1 else ""
            raise type(problems[0])(f"{problems[0]}{more}") if isinstance(problems[0], DataError) else problems[0]

    def make_sets(self, specs: Sequence[SetSpec]) -> dict[str, Task]:
        """Make sets and all the work that they declare, each piece once; return the task of each set by title.

        Whatever is ready is made, the earlier stages first. What failed fails the sets that need it, with its reason,
        and no others."""
        made: dict[str, Task] = {}
        roots: dict[Address, list[SetSpec]] = {}
        open_work: dict[Address, tuple[Work, SetSpec]] = {}
        for spec in specs:
            try:
                declared = self.session.declared(spec)
            except Exception as problem:  # a method's own: it concerns its sets alone
                made[spec.title] = Task("", None, "", done=True, problem=problem)
                continue
            *_, root = declared
            roots.setdefault(root, []).append(spec)
            wanted = [root] if self.session.has_set(spec) else declared
            for address in wanted:
                work = declared[address]
                if address == root or not self.session.stored(work.kind, work.key):
                    open_work.setdefault(address, (work, spec))
        failed: dict[Address, Exception] = {}
        while open_work:
            ready = [work for work, _ in open_work.values() if not any(n.address in open_work for n in work.needs)]
            stage = next(stage for stage in STAGES if any(work.stage == stage for work in ready))
            tasks: list[tuple[Task, list[Address]]] = []
            for members in together([work for work in ready if work.stage == stage]):
                first = members[0]
                cause = next((failed[need.address] for need in first.needs if need.address in failed), None)
                if cause is not None:
                    task = Task("", None, "", done=True, problem=cause)
                elif first.address in roots:
                    task = self.submit("distil", stage, roots[first.address][0], first.title)
                else:
                    pieces = [(open_work[work.address][1], work.address) for work in members]
                    task = self.submit("work", stage, pieces, first.title)
                tasks.append((task, [work.address for work in members]))
            kinds = dict.fromkeys(work.kind for work in ready if work.stage == stage)
            self.finish([task for task, _ in tasks if not task.done], ", ".join(kinds))
            for task, addresses in tasks:
                for address in addresses:
                    del open_work[address]
                    for spec in roots.get(address, ()):
                        made[spec.title] = task
                    if task.problem is not None:
                        failed[address] = task.problem
        return made


def together(works: Sequence[Work]) -> list[list[Work]]:
    """Return work in tasks: pieces of one batch are one."""
    tasks: dict[Any, list[Work]] = {}
    for work in works:
        tasks.setdefault(work.address if work.batch is None else work.batch.key, []).append(work)
    return list(tasks.values())


def connect(address: str | None) -> None:
    """Connect to a cluster, or start Ray on this machine, open to this user alone; a slow start is tried again."""
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default of 15 halves the speed on a shared machine
    os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
    host, _, port = (address or "").rpartition(":")
    if port.isdigit() and "/" not in host:  # not "auto", nor a client's address
        try:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as problem:
            message = f"no Ray cluster answers at {address} ({problem}); start one, or give its HOST:PORT"
            raise DDOQError(message) from problem
    options: dict[str, Any] = {}
    if address is None:
        _prepare_machine()
        options = {"include_dashboard": False, "object_store_memory": OBJECT_STORE}
    for attempt in range(STARTS):
        try:
            ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **options)
            break
        except Exception as problem:  # a slow or refused start is a bare Exception of Ray's
            ray.shutdown()
            lines = str(problem).strip().splitlines() or [type(problem).__name__]
            where = f"to the cluster at {address}" if address else "on this machine"
            mend = "see `ray status`" if address else "--local runs the sweep without Ray"
            if address or attempt == STARTS - 1 or isinstance(problem, (OSError, ValueError)):
                raise DDOQError(f"Ray cannot connect {where} ({lines[0][:200]}); {mend}") from problem
    interruptions.install()  # Ray takes SIGTERM for itself


def _prepare_machine() -> None:
    """Set what a local Ray needs; DDOQError where the machine has not got it."""
    names = [name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)]
    folder = os.environ[names[0]] if names else tempfile.gettempdir()
    said = f"{names[0]}={folder}" if names else f"the folder for temporary files {folder}"
    if len(os.fsencode(folder)) > LONGEST_FOLDER:
        raise DDOQError(
            f"{said} is too long for the sockets of Ray (at most {LONGEST_FOLDER} bytes); set RAY_TMPDIR to a shorter "
            "folder, or run with --local"
        )
    if names and names[0] == "RAY_TMPDIR":
        check_folder(folder, "the folder RAY_TMPDIR=")
    raise_file_limit()
    _take_a_token()


def _take_a_token() -> None:
    """Give a local Ray a token of this run: who reaches its ports without one could run code as this user."""
    if "RAY_AUTH_MODE" in os.environ:  # the user's own choice
        return
    os.environ["RAY_AUTH_MODE"] = "token"
    if not os.environ.get("RAY_AUTH_TOKEN_PATH"):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with contextlib.suppress(ImportError, AttributeError):  # versions before 2.52 know no tokens
        inside: Any = importlib.import_module("ray._raylet")
        inside.Config.initialize("")  # it was read when ray was imported
        inside.AuthenticationTokenLoader.instance().reset_cache()


def raise_file_limit() -> None:
    """Raise the limit of open files as far as it goes; DDOQError where that is too few for Ray."""
    try:
        import resource
    except ImportError:  # not a Unix
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, MANY_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted < FEW_FILES:
        raise DDOQError(
            f"this shell may open {wanted} files at once and Ray needs {FEW_FILES}; raise it (ulimit -n), or run "
            "with --local"
        )
