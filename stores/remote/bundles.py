"""Bundles: files that a manifest lists with their hashes, as SAEs and runs are shared."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import Json, as_object, canonical_json, parse_canonical
from strata_sae.stores.files.hashing import sha256
from strata_sae.stores.format.records import FileRecord, files_json, parse_file_record

MAX_FILES = 100_000
MAX_FILE_BYTES = 2**44
_PART = re.compile(r"(?!\.\.?$)[A-Za-z0-9_.@+-]{1,255}")
_FILES = "files"


class Bundle(NamedTuple):
    """What a manifest says."""

    manifest: str
    """Name of the manifest's file."""
    facts: Mapping[str, Json]
    """What it says beside the files."""
    files: Mapping[str, FileRecord]
    """By path: parts of A-Z a-z 0-9 _ . @ + -, divided by /, none of them `.` or `..`."""

    @property
    def data(self) -> bytes:
        """The manifest's bytes."""
        return canonical_json({**self.facts, _FILES: files_json(dict(self.files))})

    @property
    def id(self) -> str:
        """sha256 of the manifest's bytes, which names everything that it lists."""
        return sha256(self.data)


def parse_bundle(manifest: str, data: bytes, where: str) -> Bundle:
    """The bundle that a manifest's bytes spell.

    Raises: StoreError if they are not canonical JSON, or list what no folder of this kind may hold: a name that leaves
        the folder, two names that are one where case does not count, a size or a hash that is none, too many files.
    """
    facts = parse_canonical(data, where)
    try:
        listed = as_object(facts.pop(_FILES))
        if not 0 < len(listed) <= MAX_FILES:
            raise ValueError(f"it lists {len(listed)} files; allowed are 1 to {MAX_FILES}")
        files = {path: _file(path, record) for path, record in listed.items()}
        _check_names(manifest, set(files))
    except KeyError as error:
        raise StoreError(f"{where}: no manifest ({error} is missing); the place holds something else") from None
    except ValueError as error:
        raise StoreError(f"{where}: {error}; nothing was fetched") from None
    return Bundle(manifest, facts, files)


def _file(path: str, record: Json) -> FileRecord:
    if not all(_PART.fullmatch(part) for part in path.split("/")) or len(path) > 1024:
        raise ValueError(f"{path[:80]!a} is no name of a file within its folder")
    file = parse_file_record(path, record)
    if file.n_bytes > MAX_FILE_BYTES or file.index_crc32c:
        raise ValueError(f"what is said of {path[:80]!a} is not what a record of a file holds")
    return file


def _check_names(manifest: str, paths: set[str]) -> None:
    """Raises: ValueError if a file lies in the place of another, or of a folder, or of the manifest."""
    seen: dict[str, str] = {manifest.lower(): manifest}
    for path in sorted(paths):
        if (other := seen.setdefault(path.lower(), path)) != path or path == manifest:
            raise ValueError(f"{path[:80]!a} and {other[:80]!a} are one name where case does not count")
    for path in paths:
        if taken := [str(parent) for parent in Path(path.lower()).parents if str(parent) in seen]:
            raise ValueError(f"{taken[0][:80]!a} is a file and a folder")
