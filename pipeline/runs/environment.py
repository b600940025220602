"""What results depend on besides config and store: the machine and the versions, without anything personal."""

import os
import platform
from importlib import metadata
from typing import Any

PACKAGES = ("torch", "numpy", "zarr", "numcodecs", "safetensors", "strata-sae")


def environment(**facts: str | int) -> dict[str, Any]:
    """Versions and processor of this process, and the `facts` only the caller knows (threads, device)."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "packages": {name: _version(name) for name in PACKAGES},
        **facts,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
