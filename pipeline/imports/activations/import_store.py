"""A store of cached activations of another program: their rows bit for bit, and where they come from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.errors import ConfigError, shown
from strata_sae.pipeline.imports.activations import ACTIVATION_FORMATS, read_activations
from strata_sae.pipeline.imports.activations.activations import ENCODINGS, Activations, allowed_name
from strata_sae.pipeline.imports.activations.pieces import in_sequences
from strata_sae.pipeline.pages.text import masked
from strata_sae.pipeline.paths import impersonal
from strata_sae.stores import ActivationStore, Rows, write_store
from strata_sae.stores.errors import UnfitRows
from strata_sae.stores.files.canonical import Json

_BOS = 1
"""The bit of a token map's flags."""


@dataclass(frozen=True)
class Asked:
    """What the files of a format may not say."""

    format: str | None = None
    """A name in ACTIVATION_FORMATS; None: guessed."""
    sites: Sequence[str] = ()
    """Names of sites: `NAME` of the one there is, `THEIRS=NAME` of one of several."""
    context: int | None = None
    """Rows of a sequence, where the files do not say it."""
    bos: int | None = None
    """Token id of BOS."""
    heldout: float = 0.1
    """Share of the documents that are held out, the last ones."""
    encoding: str | None = None
    """None: that of the files."""


class Imported(NamedTuple):
    """A new store, and what of the source is not in it."""

    store: ActivationStore
    activations: Activations


def import_store(
    source: Path, out: Path, asked: Asked, *, announce: Callable[[int], None], advance: Callable[[int], None]
) -> Imported:
    """Write the store at `out`; called again with the same files it goes on where it stopped.

    Args:
        source: a folder of one of ACTIVATION_FORMATS.
        out: the folder of the new store.
        asked: what the files may not say.
        announce: told how many rows of all sites there are, before the first is read.
        advance: told how many of them have been written.
    Raises: ConfigError if the source is not what it says, or holds what no store may hold; StoreError.

    """
    found = read_activations(source, asked.format)
    sites = _named(found, asked.sites)
    n_rows = next(iter(sites.values())).shape[0]
    tokens = _tokens(found, n_rows, asked)
    announce(n_rows * len(sites))
    try:
        store = write_store(
            out,
            sites,
            tokens=tokens,
            heldout=asked.heldout,
            encoding=asked.encoding or found.encoding,
            provenance=_provenance(found, sites),
            advance=advance,
        )
    except UnfitRows as error:
        raise ConfigError(f"{source}: {error}") from None
    return Imported(store, found)


def _named(found: Activations, asked: Sequence[str]) -> dict[str, Rows]:
    """Rows by the names that the store's sites get. Raises: ConfigError."""
    names = {theirs: allowed_name(site.name) for theirs, site in found.sites.items()}
    for text in asked:
        theirs, equals, ours = text.rpartition("=")
        if not equals and len(names) == 1:
            theirs = next(iter(names))
        if theirs not in names or not ours:
            several = "" if len(names) == 1 else "THEIRS="
            raise ConfigError(f"--site: {shown(text)!r} is not {several}NAME; the files have {', '.join(names)}")
        names[theirs] = ours
    if nameless := [theirs for theirs, name in names.items() if not name]:
        raise ConfigError(
            f"{found.folder.path}: its files do not say which site their rows are of ({shown(nameless[0])}); say it, "
            "for example --site blocks.8.hook_resid_post"
        )
    if len(set(names.values())) < len(names):
        raise ConfigError(f"--site: two sites would have one name ({', '.join(names.values())}); name them THEIRS=NAME")
    return {name: found.sites[theirs].rows_NM for theirs, name in names.items()}


def _tokens(found: Activations, n_rows: int, asked: Asked) -> dict[str, Rows]:
    tokens = dict(found.tokens)
    if asked.context is not None:
        if "document" in tokens:
            raise ConfigError("--context: the files say which rows are of one sequence; leave it out")
        if n_rows % asked.context:
            raise ConfigError(f"--context: {n_rows:,} rows are no whole sequences of {asked.context}")
        tokens |= in_sequences(n_rows, asked.context)
    if asked.bos is not None:
        if "token_id" not in tokens:
            raise ConfigError("--bos: the files hold no token ids; leave it out")
        tokens["flags"] = _BosFlags(tokens["token_id"], asked.bos)
    return tokens


class _BosFlags:
    """Flags [N] that mark the rows of one token id."""

    def __init__(self, token_ids: Rows, bos: int) -> None:
        self.shape, self.dtype = token_ids.shape, np.dtype(np.uint8)
        self._token_ids, self._bos = token_ids, bos

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        return np.where(self._token_ids[rows] == self._bos, np.uint8(_BOS), np.uint8(0))


def _provenance(found: Activations, sites: dict[str, Rows]) -> dict[str, Json]:
    """Names of model and data, and the hash of every file: equal files give an equal plan, on any machine."""
    imported: dict[str, Json] = {
        "format": found.format,
        "files": {**found.folder.sha256s()},
        "sites": dict(zip(sites, found.sites, strict=True)),
        "facts": {name: masked(value) for name, value in found.facts.items()},
    }
    provenance: dict[str, Json] = {"imported": imported}
    if found.model is not None:
        provenance["model"] = {"model": impersonal(found.model)}
    if found.dataset is not None:
        provenance["corpus"] = {"sources": [{"kind": found.format, "path": impersonal(found.dataset)}]}
    return provenance


__all__ = ["ACTIVATION_FORMATS", "ENCODINGS", "Asked", "Imported", "import_store"]
