"""The record of a converted model beside its folder in the cache, so that a damaged copy is never used."""

from pathlib import Path

from strata_sae.pipeline.input_files import file_sha256
from strata_sae.stores import StoreError
from strata_sae.stores.files.canonical import Json, as_object, canonical_json, read_canonical
from strata_sae.stores.files.filesystem import FileSystem, write_new
from strata_sae.stores.files.hashing import sha256
from strata_sae.stores.format.records import FileRecord, parse_file_record


def write_record(record: Path, folder: Path) -> None:
    """Record size and sha256 of every file in `folder`, and a hash of the record itself."""
    records = [FileRecord(path.name, path.stat().st_size, file_sha256(path)) for path in sorted(folder.iterdir())]
    files: dict[str, Json] = {record.path: record.json() for record in records}
    draft = record.with_suffix(".json.partial")
    draft.unlink(missing_ok=True)
    write_new(FileSystem(), draft, canonical_json({"files": files, "sha256": sha256(canonical_json(files))}))
    draft.rename(record)


def damage(record: Path, folder: Path) -> str | None:
    """What is wrong with a folder, in words; None if it holds exactly the files of its record, or is not there."""
    if not folder.is_dir():
        return None
    try:
        content = read_canonical(record)
    except StoreError as error:
        return str(error)
    try:
        if set(content) != {"files", "sha256"}:
            raise ValueError("it has other keys")
        files = {name: parse_file_record(name, file) for name, file in as_object(content["files"]).items()}
    except ValueError:
        return f"{record}: is no record of files"
    if content["sha256"] != sha256(canonical_json(content["files"])):
        return f"{record}: its own checksum differs"
    found = {path.name: path for path in folder.iterdir()}
    if other := sorted(found.keys() ^ files.keys()):
        return f"{folder}: {other[0]} {'was added' if other[0] in found else 'is missing'}"
    for name, path in sorted(found.items()):
        if path.stat().st_size != files[name].n_bytes or file_sha256(path) != files[name].sha256:
            return f"{path}: is not the file that was written"
    return None
