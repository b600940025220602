"""Which device there is, and how much memory, as far as each system says."""

import os
from pathlib import Path

import torch

from strata_sae.pipeline.errors import ConfigError

_MEMINFO = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")
UNKNOWN_SHARE = 0.5
"""Of the physical memory, assumed free where the system does not say how much is (macOS)."""


UNKNOWN_BYTES = 8 * 2**30
"""Physical memory, assumed where the system does not say how much there is; training.memory_bytes overrides it."""


def choose_device(name: str, key: str) -> torch.device:
    """The device that the config's `key` names; `auto` is cuda where there is one, else cpu.

    Raises: ConfigError if this machine has no such device.
    """
    n_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if n_cuda else "cpu")
    here = ["auto", "cpu", *(["cuda"] if n_cuda else []), *(f"cuda:{number}" for number in range(n_cuda))]
    if name not in here:
        raise ConfigError(f"{key}: {name!r} is not allowed here; allowed: {', '.join(here)}")
    return torch.device(name)


def free_bytes(device: torch.device) -> int:
    """Memory that training may take now: of the device, or what the system and its control group leave (bytes)."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    available = _meminfo().get("MemAvailable") or int(_physical_bytes() * UNKNOWN_SHARE)
    limit, used = _group_bytes("memory.max"), _group_bytes("memory.current")
    return available if limit is None or used is None else max(0, min(available, limit - used))


def total_bytes(device: torch.device) -> int:
    """Memory that could be there if nothing else ran, swap included (bytes): what needs more can never fit."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    known = _meminfo()
    total = known.get("MemTotal", _physical_bytes()) + known.get("SwapTotal", 0)
    limit = _group_bytes("memory.max")
    return total if limit is None else min(total, limit + known.get("SwapTotal", 0))


def _meminfo() -> dict[str, int]:
    """Linux's account of memory (bytes); empty elsewhere."""
    try:
        lines = _MEMINFO.read_text(encoding="utf-8").splitlines()
        pairs = [line.partition(":") for line in lines]
        return {name: int(amount.split()[0]) * 1024 for name, _, amount in pairs if amount.strip().endswith("kB")}
    except (OSError, ValueError, IndexError):
        return {}


def _physical_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # a name that this system does not know
        return UNKNOWN_BYTES


def _group_bytes(name: str) -> int | None:
    """A number of this process's control group (Linux); None where there is none, or no limit."""
    try:
        text = (_GROUP / name).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
