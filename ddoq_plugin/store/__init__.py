"""What is kept on disk: artifacts by content, tensors as files, costs, and where numbers come from."""

from .artifacts import (
    MANIFEST,
    Store,
    cost_of,
    damaged_files,
    hash_file,
    hash_key,
    hash_tensors,
    link_files,
    write_atomic,
)

__all__ = [
    "MANIFEST",
    "Store",
    "cost_of",
    "damaged_files",
    "hash_file",
    "hash_key",
    "hash_tensors",
    "link_files",
    "write_atomic",
]
