"""A trained SAE to a folder of another library's format: whole, or not at all."""

import shutil
from pathlib import Path

from strata_sae.pipeline.errors import ConfigError, nearest
from strata_sae.pipeline.export.handing import handed
from strata_sae.pipeline.formats import FORMATS, Writing
from strata_sae.pipeline.formats.foreign import DoesNotFit
from strata_sae.pipeline.outside import outside_stores
from strata_sae.pipeline.runs.addresses import trained_at
from strata_sae.pipeline.runs.trained import TrainedSAE
from strata_sae.stores.files.filesystem import make_folder, naming, publish_folder, staging_path
from strata_sae.stores.files.hashing import file_sha256


def export(address: Path, format: str, out: Path) -> Path:
    """Write the SAE at `<run>/<variant>@<site>`, or `<run>/variants/<variant>@<site>`. As `export_sae`.

    Raises: ConfigError also where no trained SAE lies; CheckpointError if its files are not what they should be.
    """
    _writer(format, out)  # a file that is in the way is told before weights are read
    return export_sae(trained_at(address), format, out)


def export_sae(trained: TrainedSAE, format: str, out: Path) -> Path:
    """Write an SAE as another library reads it, in the units of the stored rows, with where it came from.

    The folder appears whole, or a kill leaves none; the same SAE gives the same bytes each time.
    format: one of FORMATS that can be written. out: a folder that does not exist, is empty, or holds this very export.
    Returns: `out`.
    Raises: ConfigError for another format or folder, or if the SAE does not fit the format, saying why; CheckpointError
        if a file of its run is not what it should be.
    """
    write, target = _writer(format, out), out.absolute()
    staged = staging_path(target)
    try:
        found = handed(trained)
        with naming(target):
            make_folder(target.parent)
            staged.mkdir()
            write(found, staged)
            if not _holds_files(target):
                publish_folder(staged, target)
            elif _contents(target) != _contents(staged):
                raise _taken(out)
    except DoesNotFit as error:
        raise ConfigError(f"--format {format}: {error}") from None
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return out


def _writer(format: str, out: Path) -> Writing:
    """What writes a format, if that and the folder can be. Raises: ConfigError."""
    outside_stores(out, "--out")
    above = next((folder for folder in out.absolute().parents if folder.exists()), None)
    if above is not None and not above.is_dir():
        raise ConfigError(f"--out: {above} is a file, so {out.name} cannot lie in it; name another folder")
    if out.is_symlink() or (out.exists() and not out.is_dir()) or any(path.is_dir() for path in out.glob("*")):
        raise _taken(out)
    known = {name: one.write for name, one in FORMATS.items() if one.write is not None}
    if format not in known:
        raise ConfigError(
            f"--format: {format!r} cannot be written; allowed: {', '.join(known)}{nearest(format, known)}"
        )
    return known[format]


def _taken(out: Path) -> ConfigError:
    return ConfigError(f"--out: {out} is there already; name a folder that does not exist, or is empty")


def _holds_files(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _contents(folder: Path) -> dict[str, str]:
    """The files of a folder without subfolders: name -> sha256."""
    return {path.name: file_sha256(path) for path in folder.iterdir()}
