"""Finding files, and reading their bytes whatever their compression."""

import glob
import gzip
import importlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.errors import ConfigError
from pipeline.input_files import file_sha256

READ_BYTES = 1 << 20


def matching(patterns: list[str]) -> list[Path]:
    """The files that the patterns name, each once, sorted.

    Raises: ConfigError for a pattern that names no file.
    """
    found: set[Path] = set()
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.is_dir():
            raise ConfigError(
                f"corpus.sources: paths: {pattern!r} is a folder; name its files: {pattern.rstrip('/')}/*"
            )
        # A file whose name holds brackets is that file, before it is a pattern.
        names = [str(path)] if path.is_file() else glob.glob(str(path), recursive=True)
        files = {Path(name) for name in names if Path(name).is_file()}
        if not files:
            raise ConfigError(
                f"corpus.sources: paths: {pattern!r} matches no file (looked in {Path.cwd()}); correct it or remove it"
            )
        found |= files
    return sorted(found, key=lambda path: path.as_posix())


def chunks(path: Path) -> Iterator[bytes]:
    """The content of a plain, `.gz` or `.zst` file, in pieces. Raises: ConfigError if it cannot be read to its end."""
    try:
        with path.open("rb") as file:
            if path.suffix == ".gz":
                with gzip.open(file) as stream:
                    yield from iter(lambda: stream.read(READ_BYTES), b"")
            elif path.suffix == ".zst":
                yield from _zstandard(path, file)
            else:
                yield from iter(lambda: file.read(READ_BYTES), b"")
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); is the file complete and readable?") from error


def _zstandard(path: Path, file: BinaryIO) -> Iterator[bytes]:
    # `stream_reader` takes the end of a truncated file for the end of the data; only the frame's own end tells.
    zstandard = needed("zstandard", path)
    frame = zstandard.ZstdDecompressor().decompressobj()
    inside = False
    try:
        for piece in iter(lambda: file.read(READ_BYTES), b""):
            while piece:
                inside = True
                yield frame.decompress(piece)
                piece = b""
                if frame.eof:
                    piece, inside = frame.unused_data, False
                    frame = zstandard.ZstdDecompressor().decompressobj()
    except zstandard.ZstdError as error:
        raise ConfigError(f"{path}: is not a whole .zst file ({error}); copy or compress it again") from error
    if inside:
        raise ConfigError(f"{path}: ends inside a zstd frame; copy or compress it again")


def decoded(raw: bytes, path: Path, offset: int) -> str:
    """`raw`, which begins `offset` bytes into the (decompressed) file, as UTF-8. Raises: ConfigError."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: byte {offset + error.start} (0x{raw[error.start]:02x}) is not UTF-8; convert the file, "
            f"for example with `iconv -t UTF-8`"
        ) from error
    return text.removeprefix("\ufeff") if offset == 0 else text


def file_record(path: Path) -> dict[str, Any]:
    """Base name, size and sha256 of a file, as it lies on disk."""
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": file_sha256(path)}


def needed(module: str, path: Path | str) -> Any:
    """An optional dependency. Raises: ConfigError saying how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{path}: reading it needs {module}: pip install 'strata-sae[extract]'") from error
