"""Every byte of a codes store, and what its two orders say of each other."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from strata_sae.stores.codes.finishing import read_manifest
from strata_sae.stores.codes.layout import TABLE
from strata_sae.stores.codes.reading import CodesStore
from strata_sae.stores.codes.segment import check_codes
from strata_sae.stores.errors import StoreError, explain
from strata_sae.stores.files.hashing import file_sha256
from strata_sae.stores.format.plan import MANIFEST, STAGING


def verify_codes(folder: Path | str) -> list[str]:
    """Problems of a codes store, each with its file; none means that every byte of it is the one that was written.

    Reads all of it, a segment in memory at a time.
    """
    folder = Path(folder)
    try:
        codes = CodesStore.open(folder)
        found = [*_strangers(folder, codes), *_hashes(folder, codes)]
    except StoreError as error:
        return [str(error)]
    except OSError as error:
        return [f"{error.filename or folder}: cannot be read ({explain(error)})"]
    return found or list(_contents(codes))


def _hashes(folder: Path, codes: CodesStore) -> Iterator[str]:
    for name, file in sorted(read_manifest(folder, codes.plan).files.items()):
        if file_sha256(folder / name) != file.sha256:
            yield f"{folder / name}: its sha256 is not the one in {MANIFEST}; the file is damaged, make the codes again"


def _strangers(folder: Path, codes: CodesStore) -> Iterator[str]:
    """Files that are not of the codes, and what is no plain file."""
    listed = {MANIFEST, *read_manifest(folder, codes.plan).files}
    for at, folders, names in os.walk(folder):
        inside = Path(at).relative_to(folder)
        if at == str(folder) and STAGING in folders:
            folders.remove(STAGING)
        for name in sorted([*names, *(name for name in folders if Path(at, name).is_symlink())]):
            path = (inside / name).as_posix()
            if not stat.S_ISREG(os.lstat(folder / path).st_mode):
                yield f"{folder}: {path!a} is no plain file; a codes store holds no links"
            elif path not in listed:
                yield f"{folder}: {path!a} does not belong to these codes; remove it"


def _contents(codes: CodesStore) -> Iterator[str]:
    """What no hash says: the content of files that were written as they are."""
    counted = np.zeros(codes.plan.d_sae, np.int64)
    for segment in range(codes.plan.n_segments):
        try:
            whole = codes.stored(segment).whole()
            check_codes(codes.plan, segment, whole)
            counted += np.diff(whole.latent_offset)
        except StoreError as error:
            yield f"{codes.path}: {error}"
    try:
        if "count_all" in codes.table and (codes.table["count_all"] != counted).any():
            yield f"{codes.path / TABLE}: count_all is not the number of active rows; make the codes again"
    except StoreError as error:
        yield str(error)
