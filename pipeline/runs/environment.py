"""environment.json: what results depend on besides config and store."""

import os
import platform
from importlib import metadata
from typing import ClassVar

from strata_sae.pipeline.runs.records import Count, Record


class Environment(Record):
    """environment.json: what results depend on besides config and store, without anything personal."""

    kind: ClassVar[str] = "environment.json"
    remedy: ClassVar[str] = "delete it and run train"
    python: str
    platform: str
    cpu_count: Count | None
    packages: dict[str, str | None]
    device: str
    torch_threads: Count


PACKAGES = ("torch", "numpy", "zarr", "numcodecs", "safetensors", "strata-sae")


def environment(*, device: str, torch_threads: int) -> Environment:
    """Versions and processor of this process, and what only the caller knows."""
    return Environment(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        cpu_count=os.cpu_count(),
        packages={name: _version(name) for name in PACKAGES},
        device=device,
        torch_threads=torch_threads,
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
