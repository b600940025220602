"""A foreign SAE, wherever it lies and whatever wrote it: its format is guessed only where the files leave no doubt."""

from dataclasses import replace
from pathlib import Path

import torch

from strata_sae.pipeline.errors import ConfigError, nearest
from strata_sae.pipeline.formats import FORMATS
from strata_sae.pipeline.formats.foreign import Foreign
from strata_sae.pipeline.formats.hub import address_of, fetched
from strata_sae.pipeline.paths import as_path
from strata_sae.pipeline.saes.base import SAE


def readable() -> list[str]:
    """Names of the formats that are read."""
    return [name for name, format in FORMATS.items() if format.read is not None]


def read_foreign(path: str, format: str | None, device: torch.device | None = None) -> Foreign:
    """The SAE in a folder or file, or in a folder of the hub, with its weights on a device (None: the processor).

    Args:
        path: a folder or file; or `hf://owner/repo[@revision][/folder]`, or `owner/repo/folder` where no such path is.
        format: name in FORMATS; None: as the files' names say for certain.
        device: where its weights are to lie.
    Raises: ConfigError if there is nothing, or its format is unknown or not certain; CheckpointError if the files are
        damaged, or hold what no SAE here computes.

    """
    if format is not None and format not in (known := readable()):
        raise ConfigError(f"format: {format!r} is unknown; allowed: {', '.join(known)}{nearest(format, known)}")
    local = as_path(path, "path") if "://" not in path else None
    address = None if local is not None and _exists(local) else address_of(path)
    if address is not None:
        folder = fetched(address, sorted({name for one in FORMATS.values() for name in one.files}))
        found = _read(folder, format, str(address))
        facts = found.source.facts | {"hub_commit": _commit_of(folder)}
        return _on(replace(found, source=replace(found.source, path=str(address), facts=facts)), device)
    if local is None or not _exists(local):
        raise ConfigError(f"{path}: there is no such folder or file; give the folder that holds the SAE's files")
    return _on(_read(local, format, path), device)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that no file can have
        return False


def _read(path: Path, format: str | None, shown: str) -> Foreign:
    reader = FORMATS[format or _guessed(path, shown)].read
    assert reader is not None
    return reader(path)


def _guessed(path: Path, shown: str) -> str:
    """The one format that the files are of for certain. Raises: ConfigError naming what each format needs."""
    found = [name for name in readable() if FORMATS[name].is_one(path)]
    if len(found) == 1:
        return found[0]
    needs = "; ".join(f"{name}: {' and '.join(FORMATS[name].files)}" for name in found or readable())
    why = f"may be of {' or '.join(found)}" if found else "holds no SAE of a known format"
    do = "give the format" if found else "give the folder that holds such files"
    raise ConfigError(f"{shown}: {why} ({needs}); {do}")


def _commit_of(folder: Path) -> str | None:
    """The commit that a folder in the hub's cache is of."""
    return next((part.name for part in (folder, *folder.parents) if part.parent.name == "snapshots"), None)


def _on(found: Foreign, device: torch.device | None) -> Foreign:
    sae = found.sae
    if device is None or device.type == "cpu":
        return found
    kept = sae.parameters() | ({} if sae.threshold is None else {"threshold": sae.threshold})
    moved: SAE = type(sae)(sae.settings, sae.d_out, {name: kept[name].to(device) for name in kept}, sae.d_in)
    return replace(found, sae=moved)
