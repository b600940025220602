"""Paths as people write them in a config, on the command line or in the environment: one reading for all."""

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path, PurePath

from strata_sae.pipeline.errors import ConfigError

DATA_ROOT = "STRATA_DATA"
"""The environment variable that names the folder in which stores lie by their runs' names."""
LONGEST_NAME = 180
"""Characters of a file's name, which may have 255 bytes, and gets an ending and a staged name."""
_UNSAFE = re.compile(r"[^A-Za-z0-9@._+,=-]+")


def as_path(text: str | Path, where: str) -> Path:
    """The path that `text` names: `~` and `~user` are home folders, anything else stands as it is.

    Args:
        text: what was given.
        where: the key, flag or variable it was given by, for the error.
    Raises: ConfigError if the home folder it names is unknown, or it holds a NUL.

    """
    if "\0" in str(text):
        raise ConfigError(f"{where}: {str(text)!a} holds a NUL character, which no path may hold")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{where}: {str(text)!r}: {error}; write the whole path") from None


def impersonal(path: str) -> str:
    """`<name>#<hash>` of a path that leads from the root or a named home; any other path, hub id or word as it is."""
    if not PurePath(path).is_absolute() and not (path.startswith("~") and not path.startswith("~/")):
        return path
    return f"{PurePath(path).name}#{hashlib.sha256(path.encode()).hexdigest()[:12]}"


def safe_name(name: str) -> str:
    """A file's name, without its ending, of any text; two texts never get one name."""
    safe = _UNSAFE.sub("_", name)
    if safe != name or len(safe) > LONGEST_NAME:
        safe = f"{safe[:LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return safe


def reader_of(where: str) -> Callable[[str | Path], Path]:
    """`as_path` for one argument or option of a command; what says `--stage` in its errors."""
    return lambda text: as_path(text, where)


def place_reader_of(where: str) -> Callable[[str], str]:
    """The same for what may be a URL, or the id of a hub, too: these stay as they are."""
    return lambda text: text if "://" in text else str(as_path(text, where))


def data_root() -> Path:
    """`$STRATA_DATA`, else `data`. Raises: ConfigError if that is a file."""
    root = as_path(os.environ.get(DATA_ROOT) or "data", DATA_ROOT)
    if root.exists() and not root.is_dir():
        raise ConfigError(f"{DATA_ROOT}: {str(root)!r} is a file; it names the folder in which stores lie")
    return root
