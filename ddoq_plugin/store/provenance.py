"""Where a number comes from: machine, library versions, commit."""

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import psutil

LIBRARIES = ("torch", "torchvision", "diffusers", "timm", "ray", "numpy", "pandas", "scikit-learn", "POT")


def machine() -> dict[str, Any]:
    """Return what the machine is (no name, no address): processor, cores, memory, GPU, system and Python."""
    import torch

    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions(),
        "commit": commit(),
    }


def provenance_columns() -> dict[str, Any]:
    """Return the columns that every row carries."""
    return {"versions": " ".join(f"{name} {version}" for name, version in versions().items()), "commit": commit()}


@functools.lru_cache
def versions() -> dict[str, str]:
    """Return the versions of this package and of the libraries that numbers depend on."""
    found = {}
    for name in ("ddoq-plugin", *LIBRARIES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.lru_cache
def commit() -> str:
    """Return the checkout's commit, with "+changes" if files differ from it; of an installed wheel, its version."""
    folder = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != folder:
            raise ValueError  # installed into some other project's checkout
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, ValueError, subprocess.SubprocessError):
        return f"ddoq-plugin {versions().get('ddoq-plugin', 'unknown')}"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
