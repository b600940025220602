"""Whether the files that an SAE was imported from are still what they were."""

from pathlib import Path

from strata_sae.pipeline.formats.hub import address_of
from strata_sae.pipeline.input_files import file_sha256
from strata_sae.pipeline.paths import as_path, impersonal
from strata_sae.pipeline.runs.records import ImportedPart


def changed_files(path: str, imported: ImportedPart) -> list[str]:
    """What of the source differs from what was imported, a few words each; nothing where the source is gone.

    The hub is not asked: what was imported from an address stays.
    path: where the config says that it lies. Raises: ConfigError if that can be no path.
    """
    address = address_on_hub(path)
    if address is not None:
        known_as = {impersonal(path), address}
        return [] if imported.path in known_as else [f"path: was {imported.path}, is {address}"]
    source = as_path(path, "from.path")
    if not source.exists():
        return [] if imported.path == impersonal(path) else [f"path: was {imported.path}, and {path} is not there"]
    root = source if source.is_dir() else source.parent
    return [
        f"{name}: {change}"
        for name, sha256 in sorted(imported.sha256.items())
        if (change := _change(root, name, sha256))
    ]


def address_on_hub(path: str) -> str | None:
    """`hf://…` for what `read_foreign` would fetch from the hub; None for a path of this machine.

    Raises: ConfigError if it can be neither.
    """
    is_here = "://" not in path and as_path(path, "from.path").exists()
    address = None if is_here else address_of(path)
    return None if address is None else str(address)


def _change(root: Path, name: str, sha256: str) -> str:
    try:
        found = file_sha256(root / name)
    except FileNotFoundError:
        return "is gone"
    except (OSError, ValueError) as error:
        return f"cannot be read ({getattr(error, 'strerror', error)})"
    return "" if found == sha256 else f"sha256 was {sha256[:12]}, is {found[:12]}"
