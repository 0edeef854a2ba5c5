"""The operations of DSA by name, without the tensors of :mod:`.dsa`."""

from ..errors import ConfigError, nearest

OPERATIONS = ("color", "crop", "cutout", "flip", "scale", "rotate")
STRATEGY = "_".join(OPERATIONS)
"""All operations, as the papers take them for photographs; for digits they leave out ``flip``."""


def strategy_operations(strategy: str) -> tuple[int, ...]:
    """Return the places in ``OPERATIONS`` of a strategy such as "color_crop_flip"; ConfigError for an unknown one."""
    names = strategy.split("_") if strategy else []
    for name in names:
        if name not in OPERATIONS:
            raise ConfigError(
                f"DSA has no operation {name!r}{nearest(name, OPERATIONS)}; join some of {', '.join(OPERATIONS)} by _"
            )
    return tuple(OPERATIONS.index(name) for name in names)
