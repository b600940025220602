"""The corpus and the model as they lie there now, beside what a plan recorded of them when it was made."""

import os
import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.config.corpus import Source
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.documents.files import printable
from strata_sae.pipeline.extractor.documents.finding import local_files, matching
from strata_sae.pipeline.input_files import Comparison, FileState, compare_commit, compare_file, shown
from strata_sae.pipeline.language_model import compare_model
from strata_sae.pipeline.paths import as_path
from strata_sae.pipeline.runs import changed_keys
from strata_sae.stores.format.plan import Plan

_NOT_A_RECORD = (KeyError, IndexError, TypeError, AttributeError)
"""What reading a provenance raises that holds something else: a plan may be anybody's."""


def check_inputs(path: Path, plan: Plan, config: RunConfig) -> list[str]:
    """Refuse to take the store at `path`, finished or not, for what the config's inputs would give now.

    Returns: a line where there is something that could not be compared, such as a corpus that was deleted since.
    Raises: ConfigError naming each file, commit or version that differs.
    """
    found = compare_inputs(plan, config)
    if found.differences:
        raise ConfigError(
            f"{path}: its inputs are not what this store was made from: {shown(found.differences)}. Give the run "
            f"another name (or store.path), delete that folder to extract again, or put back what was there; train, "
            f"evaluate and report read the store as it is"
        )
    return not_compared(path, found)


def not_compared(path: Path, found: Comparison) -> list[str]:
    """A line that says which inputs could not be compared; none if all were."""
    if not found.unknown:
        return []
    return [f"{path}: used as it is; not compared with what it was made from: {shown(found.unknown)}"]


def compare_inputs(plan: Plan, config: RunConfig) -> Comparison:
    """Every file, commit and version that decides the rows. The configs are equal already.

    A file whose size, times and inode are as they were when it was hashed is not read again.
    """
    return Comparison.of([compare_corpus(plan, config), _model(plan, config)])


def compare_corpus(plan: Plan, config: RunConfig) -> Comparison:
    """The part of `compare_inputs` that is text."""
    return Comparison.of(_corpus(plan, config))


def _corpus(plan: Plan, config: RunConfig) -> Iterator[Comparison]:
    for number, source in enumerate(config.corpus.sources):
        where = f"corpus.sources[{number}] ({source.kind})"
        try:
            yield COMPARE[source.kind](source, plan.provenance["corpus"]["sources"][number]).under(where)
        except _NOT_A_RECORD:
            yield Comparison(unknown=(f"{where}: the plan does not say what was read",))


def _model(plan: Plan, config: RunConfig) -> Comparison:
    try:
        return compare_model(config.model, plan.provenance["model"])
    except _NOT_A_RECORD:
        return Comparison(unknown=("model.path: the plan does not say what was read",))


def _python_docs(source: Any, recorded: dict[str, Any]) -> Comparison:
    then, now = recorded["python"], platform.python_version()
    return Comparison() if then == now else Comparison((f"Python was {then}, is {now}",))


def _files(source: Any, recorded: dict[str, Any]) -> Comparison:
    return _listed(recorded, files_of(source))


def _dataset(source: Any, recorded: dict[str, Any]) -> Comparison:
    if "files" in recorded:
        return _listed(recorded, files_of(source))
    if files_of(source):
        return Comparison((f"{source.path}: was a dataset of the hub, is a folder",))
    commits = recorded["commits"]
    if not commits:
        return Comparison(unknown=(f"{source.path}: no commit was recorded",))
    return Comparison.of(compare_commit("dataset", source.path, source.revision, commit) for commit in commits)


COMPARE: dict[str, Callable[[Any, dict[str, Any]], Comparison]] = {
    "python_docs": _python_docs,
    "text": _files,
    "jsonl": _files,
    "parquet": _files,
    "dataset": _dataset,
}
"""How a kind of source is compared with what `documents.describe` recorded of it."""


def _listed(recorded: dict[str, Any], now: list[Path]) -> Comparison:
    """Files by name, those of one name in their order; then the order of all."""
    if not now:
        return Comparison(unknown=("none of its files is there",))
    then: dict[str, list[str | None]] = {}
    for record in recorded["files"]:
        then.setdefault(record["name"], []).append(record["sha256"])
    for name in recorded.get("files_not_read", []):
        then.setdefault(name, []).append(None)
    if "files_not_read" not in recorded:  # an older plan names the files alone that documents were drawn from
        now = [path for path in now if printable(path.name) in then]
    there: dict[str, list[Path]] = {}
    for path in now:
        there.setdefault(printable(path.name), []).append(path)
    names = dict.fromkeys([*then, *there])
    found = Comparison.of(part for name in names for part in _same_name(name, then.get(name, []), there.get(name, [])))
    before = [*(record["name"] for record in recorded["files"]), *recorded.get("files_not_read", [])]
    if not found.differences and before != [printable(path.name) for path in now]:
        return Comparison(("its files come in another order",), found.unknown)
    return found


def _same_name(name: str, hashes: list[str | None], paths: list[Path]) -> Iterator[Comparison]:
    """`hashes`: None for a file that was there and not read, as the budget of tokens was spent before it."""
    if len(hashes) != len(paths):
        yield Comparison((f"{name}: was {_there(len(hashes))}, is {_there(len(paths))}",))
    for sha256, path in zip(hashes, paths, strict=False):
        if sha256 is not None:
            yield compare_file(name, sha256, path)


def _there(n_files: int) -> str:
    return {0: "absent", 1: "there"}.get(n_files, f"there {n_files} times")


def files_of(source: Source) -> list[Path]:
    """The files that a source would be read from now, in their order; empty for one that is not read from files."""
    if source.kind == "dataset":
        return local_files(as_path(source.path, "corpus.sources: path"))
    found: set[Path] = set()
    for pattern in getattr(source, "paths", []):
        with suppress(ConfigError):  # no such file now
            found |= set(matching([pattern]))
    return sorted(found, key=lambda path: path.as_posix())


class ReadFiles:
    """The files of a source as they lay there when reading began."""

    def __init__(self, source: Source, label: str) -> None:
        self._label = label
        self._states = {path: _state(path) for path in files_of(source)}
        self._all = source.kind == "dataset"  # whoever reads a folder as a dataset reads which of its files it wants

    def all_read(self) -> None:
        """The source came to its end."""
        self._all = True

    def parted(self, origins: Iterable[Path | str]) -> tuple[list[Path | str], list[str] | None]:
        """(the files up to the last one with a document in the store, the names of those after it).

        A source that is not read from files: its origins, and None.
        """
        if not self._states:
            return list(origins), None
        paths = list(self._states)
        place = {path: number for number, path in enumerate(paths)}
        if unknown := [path for path in origins if path not in place]:
            raise self._changed(unknown[0])
        read = len(paths) if self._all else max((place[Path(path)] + 1 for path in origins), default=0)
        return list(paths[:read]), [printable(path.name) for path in paths[read:]]

    def check_unchanged(self, paths: Iterable[Path | str]) -> None:
        """Raises: ConfigError for a file whose size, time of change or inode is not what it was."""
        for path in paths:
            if Path(path) in self._states and _state(Path(path)) != self._states[Path(path)]:
                raise self._changed(path)

    def _changed(self, path: Path | str) -> ConfigError:
        return ConfigError(
            f"{self._label}: {path} changed while it was read; when it is complete, run the same command again"
        )


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = FileState.of(os.stat(path))
    except OSError:  # the reader says so, or it is gone
        return None
    return found.n_bytes, found.mtime_ns, found.inode  # not ctime: a hard link or a new mode is no new content


def model_changes(recorded: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two models' provenance, a line each; hooks only at sites that both have.

    What was not recorded yet when the first was made is not compared.
    """
    both = recorded.get("hooks", {}).keys() & now["hooks"].keys()
    then, today = (record | {"hooks": {site: record["hooks"][site] for site in both}} for record in (recorded, now))
    tokenizer = {key: value for key, value in now["tokenizer"].items() if key in recorded.get("tokenizer", {})}
    return changed_keys(then, {k: v for k, v in (today | {"tokenizer": tokenizer}).items() if k in then})
