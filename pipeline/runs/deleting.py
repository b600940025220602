"""Deleting a run, or some of its SAEs: only files that the stages write, and only while no process writes them."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from strata_sae.pipeline.errors import CheckpointError, ConfigError, nearest
from strata_sae.pipeline.runs.claims import DELETING, Hold, busy, claim_in, living, parts_of, refuse_claimed, search_of
from strata_sae.pipeline.runs.folders import TRIALS, FixedPath, RunFolder, VariantFolder
from strata_sae.pipeline.runs.listing import is_run
from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.deletion import doom, half_deleted, refuse_strangers, refuse_unnamed, remove
from strata_sae.stores.files.filesystem import STAGED, FileSystem


def deletable_run(run: Path) -> list[Path]:
    """The folders that `delete_run` would remove: the run, and what an interrupted deletion left of one of its name.

    Raises: CheckpointError if there is none, another process writes it, or it holds what no stage writes.
    """
    with _told():
        refuse_unnamed(run)
    left = [path for _, path in half_deleted(run.parent, run.name)]
    if not run.is_dir():
        if not left:
            raise CheckpointError(f"{run}: no such folder{_meant(run)}")
        return left
    if not is_run(run):
        raise CheckpointError(f"{run}: holds no run (no variants/<variant>@<site>/config.json); nothing was deleted")
    refuse_claimed(RunFolder(run))
    with _told():
        refuse_strangers(run, _is_of_a_run)
    return [run, *left]


def delete_run(run: Path, files: FileSystem | None = None) -> None:
    """Delete a run folder, or the rest of one. A kill leaves a folder that `deletable_run` finds by the run's name.

    Raises: CheckpointError if another process writes the run, or it holds what no stage writes.
    """
    files = files or FileSystem()
    for folder in deletable_run(run):
        with _alone(RunFolder(folder)), _told():
            remove(files, doom(files, folder) if folder == run else folder, _is_of_a_run)


def deletable_variants(run: Path, name: str) -> list[Path]:
    """The folders of a run's SAEs of a variant: of all sites, or of the one in `<variant>@<site>`.

    What an interrupted deletion left of them is among them.
    Raises: CheckpointError if the run holds none; ConfigError for an unknown name.
    """
    if run.is_symlink() or not is_run(run):
        raise CheckpointError(f"{run}: holds no run{_meant(run) or '; name the folder of one, such as runs/mine'}")
    known = {path.name: path for path in sorted((run / "variants").glob("*@*")) if path.is_dir()}
    left = half_deleted(run)
    chosen = [path for path in known.values() if _is_called(path.name, name)]
    chosen += [path for was, path in left if _is_called(was, name)]
    if not chosen:
        names = sorted({VariantFolder(path).variant for path in known.values()} | known.keys())
        raise ConfigError(f"VARIANT: {run} has no {name!r}{nearest(name, names)}; it has: {', '.join(names)}")
    for folder in chosen:
        if folder.is_symlink():
            raise CheckpointError(f"{folder}: is a link; nothing was deleted")
        with _told():
            refuse_strangers(folder, _is_of_a_variant)
    return chosen


def delete_variants(run: Path, name: str, files: FileSystem | None = None) -> None:
    """Delete the SAEs of a variant from a run.

    Raises: as `deletable_variants`; CheckpointError if another process writes one of them.
    """
    files = files or FileSystem()
    folders = deletable_variants(run, name)
    with ExitStack() as stack:
        for folder in folders:
            for claimed in (folder.name, search_of(folder.name)):
                stack.enter_context(_claimed(RunFolder(run), claimed))
            # Who makes its codes looks for these claims when it has claimed a part of them: one of the two is seen.
            if others := [name for name in parts_of(RunFolder(run), folder.name) if name != search_of(folder.name)]:
                raise busy(RunFolder(run), others)
        for folder in folders:
            # It waits beside variants/, in which every folder with an @ is an SAE.
            with _told():
                doomed = folder if folder.parent == run else doom(files, folder, run)
                remove(files, doomed, _is_of_a_variant)


@contextmanager
def _alone(run: RunFolder) -> Iterator[None]:
    """Nobody else works on anything of the run, nor begins to. Raises: CheckpointError if somebody does."""
    with _claimed(run, DELETING):
        if others := [name for name in living(run) if name != DELETING]:
            raise busy(run, others)
        yield


def _claimed(run: RunFolder, name: str) -> Hold:
    """A claim in the run. Raises: CheckpointError if another process holds it."""
    hold = claim_in(run, name)
    if hold is None:
        raise busy(run, [name])
    return hold


def _is_called(folder: str, name: str) -> bool:
    return name in (folder, folder.partition("@")[0])


def _meant(run: Path) -> str:
    return f"; did you mean {'runs' / run}?" if is_run("runs" / run) else ""


@contextmanager
def _told() -> Iterator[None]:
    """A run folder's errors are CheckpointErrors."""
    try:
        yield
    except StoreError as error:
        raise CheckpointError(str(error)) from None


def _fixed(folder: type[RunFolder] | type[VariantFolder]) -> str:
    """A pattern of the names that a kind of folder has."""
    return "|".join(re.escape(path.name) for path in vars(folder).values() if isinstance(path, FixedPath))


_LEFTOVER = rf"{re.escape(STAGED)}[^/]+(/[^/]*)?"
_CHECKPOINTS = rf"checkpoints/([^/]+/)?([^/]+\.(json|safetensors)|{_LEFTOVER})?"
_PULLED = r"run_manifest\.json|saelens/(cfg\.json|sae_weights\.safetensors)?|dictionary_learning/(ae\.pt|config\.json)?"
"""What comes with a run, or an SAE, that was pulled."""
_CODES = rf"codes/((codes|MANIFEST)\.json|latents\.[^/]+|staging/(.+)?|segments/(.+)?|{_LEFTOVER})?"
_SAE = rf"{_CODES}|{_fixed(VariantFolder)}|{_CHECKPOINTS}|ablations/(.+)?|{_LEFTOVER}|{_PULLED}"
_VARIANT = rf"{_SAE}|{TRIALS}/([0-9]+/({_SAE})?)?"
_RUN = (
    rf"{_fixed(RunFolder)}|{_LEFTOVER}|run_manifest\.json|loader/([^/]+\.jsonl)?|variants/"
    rf"|claims/([^/]+)?|documents/([^/]+\.safetensors|{_LEFTOVER})?"
    rf"|tables/([^/]+\.csv|{_LEFTOVER})?|answers/([^/]+\.jsonl|{_LEFTOVER})?|(tracking|analysis|hypotheses)/(.+)?"
    rf"|(variants/[^/]+@[^/]+|\.deleting-[^/]+)/({_VARIANT})?"
)


def _is_of_a_variant(name: str) -> bool:
    return re.fullmatch(_VARIANT, name) is not None


def _is_of_a_run(name: str) -> bool:
    return re.fullmatch(_RUN, name) is not None
