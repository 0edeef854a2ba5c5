"""YAML files that may extend others, and one sentence for each mistake in them.

``extends:`` names a file, relative to the extending one, or a packaged one. Own keys replace those of the base, and
mappings are merged key by key. A file that extends another and has no ``name`` is called after itself."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from .errors import ConfigError, explain, first_mistake, nearest

EXTENDS = "extends"
LARGEST_FILE = 1 << 20  # bytes
MOST_VALUES = 100_000  # of a file, aliases written out


class Checked(BaseModel):
    """Base of everything that is read from YAML: unknown keys are errors, numbers are finite, and no number is written
    as a text or as true or false."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_numbers(cls, value: Any, about: ValidationInfo) -> Any:
        kinds = _kinds(cls.model_fields[str(about.field_name)].annotation)
        wrong = _loose(value, kinds) if {int, float} & kinds and Any not in kinds else None
        if wrong is not None:
            raise ValueError(
                f"a number is needed, and {wrong!r} is {'in quotes' if isinstance(wrong, str) else 'none'}"
            )
        return value


def _kinds(annotation: Any) -> set[Any]:
    """Return the plain types that an annotation is made of; the type of its values for a Literal."""
    if get_origin(annotation) is Literal:
        return {type(value) for value in get_args(annotation)}
    parts = get_args(annotation)[1:] if get_origin(annotation) is dict else get_args(annotation)  # values, not keys
    return set().union(*map(_kinds, parts)) if parts else {annotation}


def _loose(value: Any, kinds: set[Any]) -> Any:
    """Return the first text or boolean of ``value`` that pydantic would take for a number; None without one."""
    if isinstance(value, (list, tuple)):
        return next((found for one in value if (found := _loose(one, kinds)) is not None), None)
    if type(value) in kinds:
        return None
    # 1e-3 without a point is a text in YAML, and meant as the number
    return value if isinstance(value, bool) or (isinstance(value, str) and re.fullmatch(r"[+-]?\d+", value)) else None


@dataclass(frozen=True)
class Layers:
    """The content of a file with its bases; ``files`` are the file itself and its bases, the nearest first."""

    content: dict[str, Any]
    files: tuple[tuple[Path, yaml.Node], ...]

    def __str__(self) -> str:
        return str(self.files[0][0])

    def where(self, location: list[str | int]) -> str:
        """Return ``file:line`` of the nearest file that holds all of ``location``, else of the file itself."""
        holding = [(path, node) for path, node in self.files if len(list(_lines(location, node))) == len(location)]
        path, node = (holding or self.files)[0]
        return f"{path}:{[node.start_mark.line, *_lines(location, node)][-1] + 1}"


def read_layers(path: Path, packaged: Mapping[str, Path], merge: Callable | None = None, seen: tuple = ()) -> Layers:
    """Read a YAML file and what it extends; ``merge(base, own)`` joins two contents (default: :func:`merged`).
    ConfigError, with file and line, for what is no YAML, an unknown base and a circle of bases."""
    content, node = _read(path)
    if EXTENDS not in content:
        return Layers(content, ((path, node),))
    base, where = content.pop(EXTENDS), f"{path}:{next(_lines([EXTENDS], node)) + 1}"
    found = path.parent / str(base)
    if not found.is_file():
        if base not in packaged:
            mend = f"give a file relative to {path.name} or one of: {', '.join(sorted(packaged))}"
            raise ConfigError(f"{where}: there is no {base!r} to extend{nearest(str(base), packaged)}; {mend}")
        found = packaged[base]
    chain = (*seen, path)
    if any(found.resolve() == other.resolve() for other in chain):
        circle = " -> ".join(other.name for other in (*chain, found))
        raise ConfigError(f"{where}: the files extend each other in a circle ({circle}); remove one extends")
    inner = read_layers(found, packaged, merge, chain)
    return Layers((merge or merged)(inner.content, {"name": path.stem, **content}), ((path, node), *inner.files))


def merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with the keys of ``own`` in their place; mappings are merged key by key."""
    content = dict(base)
    for key, value in own.items():
        inner = _opened(key, content.get(key))
        both = isinstance(value, dict) and isinstance(inner, dict)
        content[key] = merged(inner, value) if both else value
    return content


def set_values(content: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``content`` with dotted keys set (``{"dataset.path": "x.npz"}``); ConfigError where a key has none."""
    content = dict(content)
    for dotted, value in overrides.items():
        *parents, last = dotted.split(".")
        place = content
        for parent in parents:
            inner = _opened(parent, place.get(parent))
            if inner is not None and not isinstance(inner, dict):
                raise ConfigError(f"{dotted}: {parent!r} has no keys to set one by one; set {parent}=... as a whole")
            place[parent] = place = dict(inner or {})
        place[last] = value
    return content


def parse_pairs(texts: list[str]) -> dict[str, Any]:
    """Return the keys and YAML values of a command line's ``key=value`` options."""
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"{text!r} is not of the form key=value; write it so")
        pairs[key] = parse_value(value)
    return pairs


def parse_value(text: str) -> Any:
    """Return the YAML value of a command line's ``key=value``."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def valid(model: type[BaseModel], content: Mapping[str, Any], source: Layers | str = "config") -> Any:
    """Return ``model(**content)``; ConfigError names the source, the line (where there is one) and the key."""
    try:
        return model.model_validate(dict(content))
    except ValidationError as problem:
        where = source if isinstance(source, str) else source.where(first_mistake(problem)[0])
        raise ConfigError(f"{where}: {explain(problem, model)}") from None


def _read(path: Path) -> tuple[dict[str, Any], yaml.Node]:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ConfigError(f"{path}: the file has more than {LARGEST_FILE:,} bytes; give a YAML file of settings")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file in UTF-8; give a YAML file") from None
    except OSError as problem:
        raise ConfigError(f"{path}: the file cannot be read ({problem.strerror}); give a YAML file") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if _values(node, {}) > MOST_VALUES:
            raise ConfigError(f"{path}: the file has more than {MOST_VALUES:,} values, aliases included; shorten it")
        content = yaml.safe_load(text)
    except RecursionError:
        raise ConfigError(f"{path}: lists or aliases are nested too deep, or hold themselves; write them out") from None
    except ValueError as problem:  # a date or a number that YAML takes for one and Python does not
        raise ConfigError(f"{path}: a value cannot be read ({problem}); write it in quotes") from None
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: not valid YAML ({getattr(problem, 'problem', problem)})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: the file must be a mapping of keys; see the packaged files for them")
    for double in _double_keys(node):
        raise ConfigError(f"{path}:{double.start_mark.line + 1}: the key {double.value!r} is given twice; remove one")
    return content, node


def _opened(key: str, value: Any) -> Any:
    """Return the long form of a short one: ``dataset: digits`` names a thing, ``protocol: hard_short`` its base."""
    return {EXTENDS if key.endswith("protocol") else "name": value} if isinstance(value, str) else value


def _lines(location: list[str | int], node: yaml.Node) -> Iterator[int]:
    """Yield the line, from 0, of each part of ``location``, as far as they stand in the file."""
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = next((pair for pair in node.value if pair[0].value == str(part)), None)
        else:
            inside = isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value)
            found = (node.value[part], node.value[part]) if inside else None
        if found is None:
            return
        key, node = found
        yield key.start_mark.line


def _values(node: yaml.Node | None, known: dict[int, int | None]) -> int:
    """Return how many values a node holds, aliases written out; RecursionError where it holds itself."""
    if node is not None and id(node) in known:
        found = known[id(node)]
        if found is None:
            raise RecursionError
        return found
    known[id(node)] = None
    count = 1
    for part in node.value if isinstance(node, yaml.CollectionNode) else ():
        count += sum(_values(one, known) for one in (part if isinstance(part, tuple) else (part,)))
    known[id(node)] = count
    return count


def _double_keys(node: yaml.Node, visited: set[int] | None = None) -> Iterator[yaml.Node]:
    """Yield the mapping keys that stand twice (YAML would silently take the last)."""
    seen = set()
    visited = set() if visited is None else visited
    if id(node) in visited:  # an alias
        return
    visited.add(id(node))
    for part in node.value if isinstance(node, yaml.CollectionNode) else ():
        *keys, value = part if isinstance(part, tuple) else (part,)
        yield from (key for key in keys if key.value in seen)
        seen |= {key.value for key in keys}
        yield from _double_keys(value, visited)
