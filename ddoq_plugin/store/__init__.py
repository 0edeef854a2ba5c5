"""What is kept on disk: artifacts by content, tensors as files, costs, and where numbers come from."""

from .artifacts import Store

__all__ = ["Store"]
