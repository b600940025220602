"""The hash that every file and record of a store is named by."""

import hashlib
import os
from pathlib import Path


def sha256(data: bytes | memoryview) -> str:
    """Hash of bytes in memory, in hex."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes, in hex. Raises: OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def descriptor_sha256(descriptor: int) -> str:
    """Hash of the bytes of a file that is open at its beginning, in hex. Raises: OSError."""
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
