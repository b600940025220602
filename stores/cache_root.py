"""The one folder under which everything that can be made again is kept."""

import os
from pathlib import Path

from stores.errors import StoreError


def cache_root() -> Path:
    """`$STRATA_CACHE`, else `$XDG_CACHE_HOME/strata`, else `~/.cache/strata`; `~` may begin the first two.

    Raises: StoreError where none of them says where that is (a container without HOME).
    """
    named, xdg = os.environ.get("STRATA_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        if named:
            return Path(named).expanduser()
        return (Path(xdg).expanduser() if xdg else Path.home() / ".cache") / "strata"
    except RuntimeError:
        raise StoreError(
            "the cache folder: this user has no home folder; set STRATA_CACHE to a folder that may be written"
        ) from None
