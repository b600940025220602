"""The one folder under which everything that can be made again is kept."""

from pathlib import Path

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files import environment
from strata_sae.stores.format.outside import refuse_inside_a_store


def cache_root() -> Path:
    """`$STRATA_CACHE`, else `$XDG_CACHE_HOME/strata`, else `~/.cache/strata`; `~` may begin the first two.

    Raises: StoreError where none of them says where that is (a container without HOME), or it lies inside a store.
    """
    named, xdg = environment.text("STRATA_CACHE"), environment.text("XDG_CACHE_HOME")
    try:
        root = Path(named).expanduser() if named else (_home_cache(xdg) / "strata")
    except RuntimeError:
        raise StoreError(
            "the cache folder: this user has no home folder; set STRATA_CACHE to a folder that may be written"
        ) from None
    refuse_inside_a_store(root, "STRATA_CACHE" if named else "the cache folder")
    return root


def _home_cache(xdg: str | None) -> Path:
    return Path(xdg).expanduser() if xdg else Path.home() / ".cache"
