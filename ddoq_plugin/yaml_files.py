"""YAML files that may extend others, and one sentence for each mistake in them.

``extends:`` names a file, relative to the extending one, or a packaged one. Own keys replace those of the base, and
mappings are merged key by key. A file that extends another and has no ``name`` is called after itself."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from .errors import ConfigError, explain, first_mistake, nearest

EXTENDS = "extends"


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
        return model(**content)
    except ValidationError as problem:
        where = source if isinstance(source, str) else source.where(first_mistake(problem)[0])
        raise ConfigError(f"{where}: {explain(problem, model)}") from None


def _read(path: Path) -> tuple[dict[str, Any], yaml.Node]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file in UTF-8; give a YAML file") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
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


def _double_keys(node: yaml.Node) -> Iterator[yaml.Node]:
    """Yield the mapping keys that stand twice (YAML would silently take the last)."""
    seen = set()
    for part in node.value if isinstance(node, yaml.CollectionNode) else ():
        *keys, value = part if isinstance(part, tuple) else (part,)
        yield from (key for key in keys if key.value in seen)
        seen |= {key.value for key in keys}
        yield from _double_keys(value)
