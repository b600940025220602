"""Pulling a run, or one trained SAE: its manifest is judged first, its records before the folder appears."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Literal, NamedTuple

from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.export.forms import check_forms
from strata_sae.pipeline.export.sending import VERSION
from strata_sae.pipeline.export.shared import (
    MANIFEST,
    OF_FORMS,
    SAE_NAME,
    SharedSAE,
    refuse_unknown_names,
    shared_run,
    shared_sae,
)
from strata_sae.pipeline.outside import outside_stores
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.stores import Bundle, RemoteBundle, open_bundle


class Pulled(NamedTuple):
    """What was fetched."""

    id: str
    path: Path
    """Of the run's folder, or the variant's."""
    kind: Literal["run", "variant"]


def pull(
    url: str,
    out: Path,
    *,
    expected_id: str | None = None,
    announce: Callable[[int], None] = lambda n_bytes: None,
    advance: Callable[[int], None] = lambda n_bytes: None,
) -> Pulled:
    """Fetch what `push` sent into the run folder `out`: a whole run, or a variant into `out/variants/`.

    Nothing appears before every file was compared with its hash and read by its own record.
    expected_id: from a source that is trusted; without it only damage is found, no forgery.

    Raises: StoreError if it is not there, damaged, or another one than expected; CheckpointError if the manifest lists
        what no run has, or records do not belong together; ConfigError for a place inside a store, or /.
    """
    outside_stores(out, "OUT")
    if not out.absolute().name:
        raise ConfigError(f"OUT: {out} is no folder of a run; name a new one, such as runs/theirs")
    remote = open_bundle(url, MANIFEST, expected_id=expected_id)
    kind, name = _what(remote.bundle, remote.url)
    refuse_unknown_names(kind, remote.bundle.files, f"{remote.url}/{MANIFEST}")
    out = out.absolute()
    path = out if kind == "run" else out / "variants" / name
    short = sha256(name.encode()).hexdigest()[:12]
    work = out.with_name(f".{out.name}.pulling" if kind == "run" else f".{out.name}-{short}.pulling")
    remote.pull(path, work=work, check=lambda folder: _check(kind, folder, remote), announce=announce, advance=advance)
    return Pulled(remote.bundle.id, path, kind)


def _what(bundle: Bundle, where: str) -> tuple[Literal["run", "variant"], str]:
    """Kind and name. Raises: CheckpointError if a manifest says anything else of what it lists."""
    facts = dict(bundle.facts)
    kind, name, version = facts.pop("kind", None), facts.pop("name", None), facts.pop("version", None)
    if version != VERSION or isinstance(version, bool):
        raise CheckpointError(
            f"{where}/{MANIFEST}: version {str(version)[:20]!a}, and this program reads {VERSION}; use a newer one"
        )
    if facts or not isinstance(name, str) or (kind == "variant" and not SAE_NAME.fullmatch(name)):
        raise CheckpointError(f"{where}/{MANIFEST}: {str(facts or name)[:80]!a} names no run and no SAE")
    if kind == "run":
        return "run", name
    if kind == "variant":
        return "variant", name
    raise CheckpointError(f"{where}/{MANIFEST}: is of a {str(kind)[:20]!a}; run and variant can be pulled")


def _check(kind: Literal["run", "variant"], folder: Path, remote: RemoteBundle) -> None:
    """Read a folder as its stages would. Raises: CheckpointError at the first file that is not what it should be."""
    try:
        read = _read_all(kind, folder)
        if unread := set(remote.bundle.files) - read:
            raise CheckpointError(f"{folder / min(unread)}: belongs to nothing beside it")
    except (CheckpointError, ConfigError) as error:  # what it advises is meant for the run that was pushed
        found = str(error).partition("; ")[0].replace(f"{folder}/", "").replace(str(folder), folder.name)
        raise CheckpointError(
            f"{remote.url}: {found}; its hashes are right, so it was pushed like that, or by another version; nothing "
            f"was put there"
        ) from None


def _read_all(kind: Literal["run", "variant"], folder: Path) -> set[str]:
    """Every file that belongs to a run, or a variant, relative to it. Raises: CheckpointError, ConfigError."""
    shared = shared_sae(VariantFolder(folder)) if kind == "variant" else shared_run(RunFolder(folder))
    saes = [shared] if isinstance(shared, SharedSAE) else shared.saes
    if shared.left_out:
        raise CheckpointError(shared.left_out[0])
    read = set() if isinstance(shared, SharedSAE) else set(shared.names)
    for sae in saes:
        check_forms(sae.trained, sae.trained.folder.path)
        before = "" if kind == "variant" else f"variants/{sae.name}/"
        read |= {f"{before}{name}" for name in (*sae.names, *OF_FORMS)}
    return read
