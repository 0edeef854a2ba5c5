"""The stated rates (rates.yaml) and the hardware that a plan is made for."""

import functools
from importlib import resources
from typing import Literal

import psutil
import yaml
from pydantic import BaseModel, ConfigDict, Field

from ..errors import ConfigError, nearest

CPU = "cpu"
Precision = Literal["half", "float32"]


class _Stated(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Host(_Stated):
    """What stands beside one GPU: processor cores and memory (GB)."""

    cores: int
    memory_gb: float


class Device(_Stated):
    """A device. ``names`` are parts of the names that torch gives it; of ``cpu`` the peak is that of one core."""

    names: tuple[str, ...]
    peak_tflops: dict[Precision, float]
    source: str
    memory_gb: float | None = None
    host: Host | None = None


class DiskRates(_Stated):
    """Writing: MB a second, and the size of a PNG as a share of its raw pixels."""

    megabytes_per_second: float
    png_share: float


class Rates(_Stated):
    """All of rates.yaml."""

    devices: dict[str, Device]
    utilisation: dict[Literal["gpu", "cpu"], dict[str, float]]
    core: dict[str, float]
    disk: DiskRates
    start_seconds: float
    process_gb: float


class Hardware(_Stated):
    """What a plan is made for: a kind of device, how many, processor cores in all, and memory (GB) of one machine."""

    device: str
    count: int = Field(ge=1)
    cores: int = Field(ge=1)
    memory_gb: float = Field(gt=0)

    @property
    def is_gpu(self) -> bool:
        return self.device != CPU

    @property
    def facts(self) -> Device:
        return load_rates().devices[self.device]

    def describe(self) -> str:
        cores = f"{self.cores} cores, {self.memory_gb:.0f} GB of memory"
        return f"{self.count} x {self.device}, {cores}" if self.is_gpu else cores


def assumed_flops(device: str, stage: str, precision: Precision) -> float:
    """Return the FLOP a second that one device (of ``cpu``: one core) is assumed to reach in a stage."""
    rates = load_rates()
    share = rates.utilisation["cpu" if device == CPU else "gpu"][stage]
    return rates.devices[device].peak_tflops[precision] * 1e12 * share


@functools.lru_cache
def load_rates() -> Rates:
    """Return the stated rates."""
    return Rates.model_validate(read_yaml("rates.yaml"))


def read_yaml(name: str) -> dict:
    """Return the content of a YAML file of this package."""
    return yaml.safe_load((resources.files(__package__) / name).read_text(encoding="utf-8"))


def pick_hardware(
    device: str | None, *, wants_gpu: bool, count: int = 1, cores: int | None = None, memory_gb: float | None = None
) -> Hardware:
    """Return the hardware of a plan; what is not said is this machine's, or that assumed beside a named GPU.

    ConfigError for an unknown device, and where the config's workers take GPUs and none is named or here."""
    rates = load_rates()
    if device is None:
        device = _own_gpu() if wants_gpu else CPU
    if device not in rates.devices:
        raise ConfigError(
            f"no rates are stated for the device {device!r}{nearest(device, rates.devices)} "
            f"(known: {', '.join(rates.devices)})"
        )
    if device != CPU and not wants_gpu:
        raise ConfigError(
            f"the config's workers take no GPU, so none of its hours fall on {device}; set resources.gpus (a share is "
            "fine), or drop --device"
        )
    host = rates.devices[device].host
    if host is None:
        own_cores, own_memory = psutil.cpu_count() or 1, psutil.virtual_memory().total / 1e9
    else:
        own_cores, own_memory = host.cores * count, host.memory_gb * count
    return Hardware(device=device, count=count, cores=cores or own_cores, memory_gb=memory_gb or own_memory)


def device_name(name: str | None) -> str | None:
    """Return the key of rates.yaml for a device as rows and costs call it, None where there is none."""
    found = (key for key, device in load_rates().devices.items() if any(part in (name or "") for part in device.names))
    return next(found, None)


def _own_gpu() -> str:
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    found = device_name(name) if name else None
    if found is None:
        here = f"this machine's {name} has no stated rates" if name else "this machine has none"
        known = ", ".join(key for key in load_rates().devices if key != CPU)
        raise ConfigError(f"the config's workers take GPUs and {here}; say for which to plan: --device {known}")
    return found
