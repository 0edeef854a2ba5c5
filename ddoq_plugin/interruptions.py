"""Signals that stop a command: one line that says how to go on, and the status that shells and batch systems expect."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

PATIENCE = 30.0  # seconds for what a stopped command has to put away
_handled: list[int] = []
_received: list[int] = []


def run(command: Callable[[], None]) -> None:
    """Run a command and end the process: status 130, 143 or 129 after SIGINT, SIGTERM or SIGHUP.

    A signal that is ignored when the command starts (``nohup``) stays ignored. A second one ends it at once."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            _handled.append(number)
    install()
    status: object = 0
    try:
        command()
    except SystemExit as end:
        status = end.code
    except KeyboardInterrupt:
        status = 130
    if _received:
        status = _say()
    for number in _handled:  # the work is done: a signal that comes while Python ends changes nothing
        signal.signal(number, signal.SIG_IGN)
    sys.exit(status)  # type: ignore[arg-type]  # what SystemExit had


def install() -> None:
    """Take the signals of a running command, again after a library has taken them; nothing outside of :func:`run`."""
    for number in _handled:
        signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    if _received:
        os._exit(128 + number)
    _received.append(number)
    last = threading.Timer(PATIENCE, lambda: os._exit(_say()))  # where a library swallows the interruption
    last.daemon = True
    last.start()
    raise KeyboardInterrupt


def _say() -> int:
    name = signal.Signals(_received[0]).name
    print(f"stopped by {name}; the same command goes on from what is finished", file=sys.stderr, flush=True)
    return 128 + _received[0]
