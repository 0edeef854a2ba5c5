"""Class names: which class of a prior a dataset means by a name."""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..errors import PriorError, nearest

SIDECAR = "class_names.json"
WORDNET_ID = re.compile(r"n\d{8}")


def match_classes(
    class_names: Sequence[str],
    known: Sequence[str],
    wordnet_ids: Sequence[str] | None = None,
    chosen: Mapping[str, int | str] | None = None,
) -> list[int]:
    """Return the id in ``known`` of every name of ``class_names``.

    A name matches, in this order: what ``chosen`` says of it (an id or a known name), the WordNet id (n01440764) of a
    class, the whole name exactly, the whole name but for case, underscores and hyphens, and one of the alternatives of
    a name such as "tench, Tinca tinca" (of either side). A name that matches nothing or several classes, and two names
    that match the same class, raise PriorError."""
    chosen, find, ids = chosen or {}, _finder(known, wordnet_ids), []
    for name in class_names:
        choice = chosen.get(name, name)
        if isinstance(choice, int) and not 0 <= choice < len(known):
            raise PriorError(f"class_map gives class id {choice}: the prior has the ids 0 to {len(known) - 1}")
        ids.append(choice if isinstance(choice, int) else find(choice))
    owners: dict[int, str] = {}
    for name, found in zip(class_names, ids, strict=True):
        if found in owners and name not in chosen:
            raise PriorError(
                f"the classes {owners[found]!r} and {name!r} both match the prior's class {known[found]!r}: "
                "say with class_map which class each one is"
            )
        owners[found] = name
    return ids


def _finder(known: Sequence[str], wordnet_ids: Sequence[str] | None) -> Callable[[str], int]:
    wordnet = {identifier: number for number, identifier in enumerate(wordnet_ids or ())}
    whole_names: dict[str, set[int]] = {}
    pieces: dict[str, set[int]] = {}
    for number, name in enumerate(known):
        whole_names.setdefault(_plain(name), set()).add(number)
        for piece in _pieces(name):
            pieces.setdefault(piece, set()).add(number)

    def find(name: str) -> int:
        if name in wordnet:
            return wordnet[name]
        if known.count(name) == 1:
            return known.index(name)
        whole = whole_names.get(_plain(name), set())
        if len(whole) == 1:
            return next(iter(whole))
        votes = Counter(number for piece in _pieces(name) for number in pieces.get(piece, ()))
        best = [number for number, count in votes.items() if count == max(votes.values())]
        if len(best) == 1:
            return best[0]
        if best:
            several = ", ".join(f"{number} ({known[number]!r})" for number in sorted(best))
            raise PriorError(f"the class {name!r} matches several of the prior's ({several}): choose one by class_map")
        mend = f"(it has {len(known)} classes; class_map={{{name!r}: id}} chooses one)"
        raise PriorError(f"the prior has no class {name!r}{nearest(_plain(name), pieces)} {mend}")

    return find


def read_class_names(source: str | Path | Sequence[str]) -> tuple[list[str], list[str] | None]:
    """Return (names, WordNet ids or None) from a sidecar, in the order of the prior's class ids.

    ``source`` is a list of names or the path of a JSON file: a list of names, or an object with the list
    ``class_names`` and, where it is known, the list ``wordnet_ids``."""
    if not isinstance(source, (str, Path)):
        return list(source), None
    try:
        content = json.loads(Path(source).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as problem:
        raise PriorError(f"the class names {source} cannot be read ({problem}): give a JSON list of names") from None
    entries = content if isinstance(content, dict) else {"class_names": content}
    names, identifiers = entries.get("class_names"), entries.get("wordnet_ids")
    for field in (names, identifiers if identifiers is not None else []):
        if not (isinstance(field, list) and all(isinstance(item, str) for item in field)):
            raise PriorError(f"the class names {source} are not a JSON list of names (key class_names in an object)")
    return names, identifiers


def imagenet_wordnet_ids() -> list[str]:
    """Return the 1000 WordNet ids of ImageNet-1K in the order of its class ids (timm's list)."""
    from timm.data import ImageNetInfo

    return list(ImageNetInfo("imagenet-1k").label_names())


def wordnet_words(identifier: str) -> str | None:
    """Return the words of an ImageNet class ("tench, Tinca tinca" for n01440764), None where it is not known."""
    from timm.data import ImageNetInfo

    try:
        return ImageNetInfo().label_name_to_description(identifier)
    except KeyError:
        return None


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())


def _pieces(name: str) -> list[str]:
    pieces = (_plain(piece) for piece in name.split(","))
    return [piece for piece in dict.fromkeys(pieces) if piece]
