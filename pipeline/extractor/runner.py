"""Which software wrote a store, for its provenance: versions alone, so that equal machines write equal plans."""

import platform
from importlib import metadata
from typing import Any

PACKAGES = ("strata-sae", "numpy", "numcodecs", "zstandard", "google-crc32c")
"""What the bytes of a store go through. The model's own software is in `provenance.model.software`."""


def runner() -> dict[str, Any]:
    """{python, packages: {name: version}}; a version is null where a package is used without being installed."""
    return {"python": platform.python_version(), "packages": {name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
