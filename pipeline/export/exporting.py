"""A trained SAE to a folder of another library's format, or of a viewer's: whole, or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from strata_sae.pipeline.errors import ConfigError, nearest
from strata_sae.pipeline.export.handing import handed
from strata_sae.pipeline.export.viewers import VIEWERS
from strata_sae.pipeline.export.viewers.origin import write_origin
from strata_sae.pipeline.export.viewers.subject import Subject, subject
from strata_sae.pipeline.formats import FORMATS, Writing
from strata_sae.pipeline.formats.foreign import DoesNotFit
from strata_sae.pipeline.outside import outside_stores
from strata_sae.pipeline.runs.addresses import trained_at
from strata_sae.pipeline.runs.trained import TrainedSAE
from strata_sae.stores.files.filesystem import (
    make_folder,
    naming,
    publish_folder,
    publish_new_folder,
    staging_path,
    sync,
)
from strata_sae.stores.files.hashing import file_sha256


def export(address: Path, format: str, out: Path, *, show_progress: bool = False) -> Path:
    """Write the SAE at `<run>/<variant>@<site>`, or `<run>/variants/<variant>@<site>`. As `export_sae`.

    Raises: ConfigError also where no trained SAE lies; CheckpointError if its files are not what they should be.
    """
    _check(format, out)  # a file that is in the way is told before weights are read
    return export_sae(trained_at(address), format, out, show_progress=show_progress)


def export_sae(trained: TrainedSAE, format: str, out: Path, *, show_progress: bool = False) -> Path:
    """Write an SAE as another library reads it, in the units of the stored rows, with where it came from.

    The folder appears whole, or a kill leaves none; the same SAE gives the same bytes each time.
    format: one of FORMATS that can be written, or of VIEWERS, which are made of its codes. out: a folder that does not
        exist, is empty, or holds this very export; of a viewer's format the last is refused.
    Returns: `out`.
    Raises: ConfigError for another format or folder, or if the SAE does not fit the format, saying why; CheckpointError
        or StoreError if a file of its run or store is not what it should be.
    """
    _check(format, out)
    try:
        if format in VIEWERS:
            _show(subject(trained, show_progress=show_progress), format, out)
        else:
            _hand(trained, _writers()[format], out)
    except DoesNotFit as error:
        raise ConfigError(f"--format {format}: {error}") from None
    return out


def _hand(trained: TrainedSAE, write: Writing, out: Path) -> None:
    """Weights, as another library reads them."""
    target = out.absolute()
    found = handed(trained)
    with _staged(target) as staged:
        write(found, staged)
        if not _holds_files(target):
            publish_folder(staged, target)
        elif _contents(target) != _contents(staged):
            raise _taken(out)


def _show(shown: Subject, format: str, out: Path) -> None:
    """Codes and text, as a viewer reads them."""
    target = out.absolute()
    with _staged(target) as staged:
        VIEWERS[format](shown, staged)
        write_origin(shown, format, staged)
        for path in staged.rglob("*"):
            sync(path)
        publish_new_folder(staged, target)


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """A folder to fill beside the target, gone when the block ends."""
    staged = staging_path(target)
    try:
        with naming(target):
            make_folder(target.parent)
            staged.mkdir()
            yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _check(format: str, out: Path) -> None:
    """Raises: ConfigError if a format or a folder cannot be written."""
    outside_stores(out, "--out")
    above = next((folder for folder in out.absolute().parents if folder.exists()), None)
    if above is not None and not above.is_dir():
        raise ConfigError(f"--out: {above} is a file, so {out.name} cannot lie in it; name another folder")
    if out.is_symlink() or (out.exists() and not out.is_dir()) or any(path.is_dir() for path in out.glob("*")):
        raise _taken(out)
    known = [*_writers(), *VIEWERS]
    if format not in known:
        raise ConfigError(
            f"--format: {format!r} cannot be written; allowed: {', '.join(known)}{nearest(format, known)}"
        )
    if format in VIEWERS and _holds_files(out):
        raise _taken(out)


def _writers() -> dict[str, Writing]:
    return {name: one.write for name, one in FORMATS.items() if one.write is not None}


def _taken(out: Path) -> ConfigError:
    return ConfigError(f"--out: {out} is there already; name a folder that does not exist, or is empty")


def _holds_files(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _contents(folder: Path) -> dict[str, str]:
    """The files of a folder without subfolders: name -> sha256."""
    return {path.name: file_sha256(path) for path in folder.iterdir()}
