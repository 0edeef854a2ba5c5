"""The errors a user can cause. Each message is one sentence that names the thing and the mend.

The command line prints them as ``error: ...`` without a traceback; anything else is a bug and keeps its traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError


class DDOQError(Exception):
    """Base of every error that a user can cause and mend."""


class ConfigError(DDOQError):
    """A configuration file or option is wrong."""


class UnknownNameError(ConfigError):
    """A name is not in its registry."""


class DataError(DDOQError):
    """A dataset is missing, incomplete or damaged."""


class PriorError(DDOQError):
    """A diffusion prior is missing, damaged or used outside its range."""


class QuantizationError(DDOQError):
    """Latents cannot be quantised as asked."""


class DistillError(DDOQError):
    """A distiller cannot make the set that was asked for."""


class EvaluationError(DDOQError):
    """A student, teacher or protocol cannot be trained or scored as asked."""


class StoreError(DDOQError):
    """A stored artifact cannot be written or read."""


def nearest(name: str, names: Iterable[str], limit: int = 3) -> str:
    """Return ``'; did you mean "x" or "y"?'`` with the known names nearest to ``name``, or the empty string."""
    known = {other: other for other in names}
    found = difflib.get_close_matches(name, known, n=limit, cutoff=0.5)
    if not found:  # difflib is case-sensitive; people are not
        known = {other.lower(): other for other in known}
        found = difflib.get_close_matches(name.lower(), known, n=limit, cutoff=0.5)
    return f"; did you mean {' or '.join(repr(known[match]) for match in found)}?" if found else ""


def first_mistake(problem: ValidationError) -> tuple[list[str | int], Any]:
    """Return the place (keys and positions) and pydantic's facts of the mistake to tell: a misspelt key comes first."""
    first = min(problem.errors(), key=lambda error: error["type"] != "extra_forbidden")
    internal = ("function-", "list[", "dict[", "constrained-", "literal[")  # pydantic's own steps on the way
    return [part for part in first["loc"] if not (isinstance(part, str) and part.startswith(internal))], first


def explain(problem: ValidationError, model: type[BaseModel], word: str = "key") -> str:
    """Return pydantic's complaint as one clause that names the key (a ``word`` of ``model``) and the nearest ones."""
    place, first = first_mistake(problem)
    key = ".".join(map(str, place))
    if first["type"] == "extra_forbidden":
        known = _fields_at(place[:-1], model)
        return f"unknown {word} {key!r}{nearest(str(place[-1]), known)} (known: {', '.join(known) or 'none'})"
    if first["type"] == "missing":
        return f"the {word} {key!r} is missing; add it"
    message = first["msg"].removeprefix("Value error, ")
    return f"{key}: {message[0].lower()}{message[1:]}, got {first.get('input')!r}" if key else message


def _fields_at(place: list[str | int], model: type[BaseModel]) -> list[str]:
    """Return the known keys at a place inside a model."""

    def models_in(annotation: Any) -> list[type[BaseModel]]:
        if hasattr(annotation, "model_fields"):
            return [annotation]
        return [inner for part in get_args(annotation) for inner in models_in(part)]

    models = [model]
    for part in place:
        found = [one.model_fields[str(part)].annotation for one in models if part in one.model_fields]
        models = [inner for annotation in found for inner in models_in(annotation)] or models
    return [name for one in models for name in one.model_fields]
