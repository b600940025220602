"""Neuronpedia's files of explanations, read with limits, since nothing in them is trusted.

Three forms are known. `explanations/batch-<n>.jsonl`, `.jsonl.gz` of its public exports
(neuronpedia-datasets, v1/<model>/<layer>-<set>/): a JSON object a line. `.json` of its earlier export: a list of such
objects, or one under the key `explanations`. `.json` of its api/feature: an object with `explanations`. Of each object
are read index, description, explanationModelName, typeName, modelId and layer; other keys are passed over.
"""

import os
import re
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from strata_sae.pipeline.errors import ConfigError, shown
from strata_sae.pipeline.runs.interpretation_records import MOST_CHARACTERS
from strata_sae.stores.errors import StoreError, explain
from strata_sae.stores.files.canonical import MAX_JSON_BYTES, Json, parse_json
from strata_sae.stores.files.hashing import file_sha256

MAX_LINE_BYTES = 2**20
"""An explanation with an embedding of 3,072 numbers takes 70 kB."""
MAX_BYTES = 2**33
"""Of a file's text; of a million latents with embeddings of 256 numbers it is 6 GB."""
MAX_FILES = 10_000
MAX_NAME = 200
"""Characters that are kept of the name of who made an explanation."""
_READ_BYTES = 2**16
_GZIP = b"\x1f\x8b"
_KINDS = (".jsonl", ".jsonl.gz", ".json", ".json.gz")


class Entry(NamedTuple):
    """What a file says of one latent."""

    latent: int
    text: str
    """Empty: it says nothing."""
    by: str
    source: str
    """`<modelId>/<layer>`, as Neuronpedia names an SAE; empty: not said."""
    is_cut: bool
    """Whether the file has more text than MOST_CHARACTERS."""


def files_of(given: Path) -> list[Path]:
    """The files of explanations at a path: itself, or those in a folder or its `explanations/`, batches by number.

    Raises: ConfigError where there is none, or too many.
    """
    if given.is_file():
        return [given]
    if not given.is_dir():
        raise ConfigError(f"--published: {given}: no such file or folder")
    inner = given / "explanations"
    folder = inner if inner.is_dir() else given
    found = [path for path in folder.iterdir() if path.name.endswith(_KINDS)]
    if not found:
        raise ConfigError(f"--published: {folder}: holds no file of explanations ({', '.join(_KINDS)})")
    if len(found) > MAX_FILES:
        raise ConfigError(f"--published: {folder}: holds {len(found):,} files; at most {MAX_FILES:,} are read")
    return sorted(found, key=lambda path: [int(part) if part.isdecimal() else part for part in _parts(path)])


def _parts(path: Path) -> list[str]:
    return re.split(r"([0-9]{1,9})", path.name)


def file_hash(path: Path) -> str:
    """sha256 (hex) of a file as it lies there. Raises: ConfigError if it cannot be read."""
    try:
        return file_sha256(path)
    except OSError as error:
        raise _unread(path, error) from None


def entries(path: Path, d_sae: int) -> Iterator[Entry]:
    """What a file says, in its order.

    d_sae: latents of the SAE that the file should be of (count).
    Raises: ConfigError for a file that is none of the known forms, is damaged or too large, or tells of other latents.
    """
    name = path.name.removesuffix(".gz")
    if name.endswith(".jsonl"):
        for number, line in enumerate(_lines(path), start=1):
            if line.strip():
                yield _entry(_json(line, f"{path}:{number}"), f"{path}:{number}", d_sae)
        return
    for number, item in enumerate(_listed(_json(_whole(path), str(path)), path), start=1):
        yield _entry(item, f"{path}: explanation {number:,}", d_sae)


def _listed(data: Json, path: Path) -> list[Json]:
    """The objects of a whole file. Those of a latent's own file are of that latent where they do not say so."""
    if isinstance(data, list):
        return data
    inner = data.get("explanations") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(inner, list):
        raise ConfigError(f"--published: {path}: neither a list of explanations nor an object with `explanations`")
    outer: dict[str, Json] = {key: data[key] for key in ("index", "modelId", "layer") if key in data}
    return [outer | item if isinstance(item, dict) else item for item in inner]


def _entry(item: Json, where: str, d_sae: int) -> Entry:
    if not isinstance(item, dict):
        raise ConfigError(f"--published: {where}: no JSON object")
    latent = _latent(item.get("index"), where, d_sae)
    text = " ".join(_text(item, "description", where).split())
    model, kind = (_text(item, key, where)[:MAX_NAME].strip() for key in ("explanationModelName", "typeName"))
    source = "/".join(_text(item, key, where)[:MAX_NAME] for key in ("modelId", "layer"))
    by = f"{model} ({kind})" if model and kind else model or kind
    return Entry(latent, text[:MOST_CHARACTERS], by, source.strip("/"), len(text) > MOST_CHARACTERS)


def _latent(index: Json, where: str, d_sae: int) -> int:
    """`index`, which is a number or its digits."""
    if isinstance(index, str) and re.fullmatch(r"[0-9]{1,12}", index):
        index = int(index)
    if not isinstance(index, int) or isinstance(index, bool) or index < 0:
        raise ConfigError(f"--published: {where}: index: must be the number of a latent, not {shown(repr(index))}")
    if index >= d_sae:
        raise ConfigError(
            f"--published: {where}: tells of latent {index}, but this SAE has {d_sae} (0 to {d_sae - 1}); name the SAE "
            "that the file is of"
        )
    return index


def _text(item: dict[str, Json], key: str, where: str) -> str:
    """A text, empty where it is not there; a surrogate that stands alone, which no file can spell, is replaced."""
    found = item.get(key)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise ConfigError(f"--published: {where}: {key}: must be text, not {shown(repr(found))}")
    return found.encode("utf-8", "replace").decode("utf-8")


def _json(data: bytes, where: str) -> Json:
    try:
        return parse_json(data, where)
    except StoreError as error:
        raise ConfigError(f"--published: {error}") from None


def _whole(path: Path) -> bytes:
    data = bytearray()
    for piece in _pieces(path):
        data += piece
        if len(data) > MAX_JSON_BYTES:
            raise ConfigError(
                f"--published: {path}: more than {MAX_JSON_BYTES:,} bytes; give it as .jsonl, a line each"
            )
    return bytes(data)


def _lines(path: Path) -> Iterator[bytes]:
    held = bytearray()
    for piece in _pieces(path):
        *whole, rest = piece.split(b"\n")
        for line in whole:
            yield bytes(held) + line
            held.clear()
        held += rest
        if len(held) > MAX_LINE_BYTES:
            raise ConfigError(f"--published: {path}: a line of more than {MAX_LINE_BYTES:,} bytes")
    yield bytes(held)


def _pieces(path: Path) -> Iterator[bytes]:
    """The file's text, at most _READ_BYTES at a time, also where a few compressed bytes unpack to many."""
    n_bytes = 0
    try:
        with _opened(path) as file:
            is_gzip = file.read(len(_GZIP)) == _GZIP
            file.seek(0)
            for piece in _unpacked(file) if is_gzip else iter(lambda: file.read(_READ_BYTES), b""):
                n_bytes += len(piece)
                if n_bytes > MAX_BYTES:
                    raise ConfigError(f"--published: {path}: more than {MAX_BYTES:,} bytes of text")
                yield piece
    except (EOFError, zlib.error) as error:
        raise ConfigError(f"--published: {path}: no whole gzip file ({error}); fetch it again") from None
    except OSError as error:
        raise _unread(path, error) from None


def _opened(path: Path) -> IO[bytes]:
    """Raises: OSError; ConfigError for a pipe, a device and the like."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ConfigError(f"--published: {path}: not a plain file")
    return open(descriptor, "rb")


def _unpacked(file: IO[bytes]) -> Iterator[bytes]:
    """The text of a gzip file of any number of members."""
    data = file.read(_READ_BYTES)
    while data:
        member = zlib.decompressobj(wbits=31)
        while not member.eof:
            yield member.decompress(data, _READ_BYTES)
            data = member.unconsumed_tail or (b"" if member.eof else file.read(_READ_BYTES))
            if not data and not member.eof:
                raise EOFError("it ends in the middle")
        data = member.unused_data or file.read(_READ_BYTES)


def _unread(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"--published: {path}: cannot be read ({explain(error)})")
