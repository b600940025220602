"""Paths that something is written under: none of them lies in a store."""

from pathlib import Path

from strata_sae.pipeline.errors import ConfigError


def outside_stores(path: Path, where: str, *, may_be_one: bool = False) -> Path:
    """The path itself. Every flag and key of an output goes through here.

    Args:
        where: the flag or key, for the error.
        may_be_one: the path may be a store, because it is the one that is made, or gone on with.
    Raises: ConfigError if it lies inside a store.

    """
    from strata_sae.stores import (
        StoreError,  # numpy and zarr come with it, and a config without outputs needs neither
        refuse_inside_a_store,
    )

    try:
        refuse_inside_a_store(path, where, may_be_one=may_be_one)
    except StoreError as error:
        raise ConfigError(str(error)) from None
    return path
