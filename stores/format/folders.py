"""Folders that are written to: none lies inside a store, and one holds everything that can be made again."""

import os
from pathlib import Path

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files import environment
from strata_sae.stores.format.plan import ARRAYS, PLAN


def refuse_inside_a_store(path: Path, what: str, *, may_be_one: bool = False) -> None:
    """To be called with every path that something is to be written under, before anything is made there.

    Links and `..` are followed, as far as the path exists.

    Args:
        what: the argument, key or variable that names the path, for the error.
        may_be_one: the path itself may be a store, because it is the one that is made, or gone on with.
    Raises: StoreError if it lies in a store, finished or not: any file too many makes a store unreadable.

    """
    where = Path(os.path.realpath(path))
    for folder in where.parents if may_be_one else (where, *where.parents):
        if _is_store(folder):
            raise StoreError(
                f"{what}: {path} {'is' if folder == where else 'lies inside'} the store {folder}, and nothing is "
                f"written into a store; choose a folder outside of it"
            )


def _is_store(folder: Path) -> bool:
    """Whether a folder is one of ours: both come with a rename, and no other program makes this pair."""
    return os.path.isfile(folder / PLAN) and os.path.isdir(folder / ARRAYS)


def cache_root() -> Path:
    """`$STRATA_CACHE`, else `$XDG_CACHE_HOME/strata`, else `~/.cache/strata`; `~` may begin the first two.

    Raises: StoreError where none of them says where that is (a container without HOME), or it lies inside a store.
    """
    named, xdg = environment.text("STRATA_CACHE"), environment.text("XDG_CACHE_HOME")
    try:
        if named:
            root = Path(named).expanduser()
        else:
            root = (Path(xdg).expanduser() if xdg else Path.home() / ".cache") / "strata"
    except RuntimeError:
        raise StoreError(
            "the cache folder: this user has no home folder; set STRATA_CACHE to a folder that may be written"
        ) from None
    refuse_inside_a_store(root, "STRATA_CACHE" if named else "the cache folder")
    return root
