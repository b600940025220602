"""What a plan recorded of its corpus and model, compared with both as they are now."""

import platform
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel, JsonValue, ValidationError

from strata_sae.pipeline.config.corpus import HubDataset, Source
from strata_sae.pipeline.config.run import ExtractConfig
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.documents.files import printable
from strata_sae.pipeline.extractor.sources import files_of
from strata_sae.pipeline.input_files import Comparison, compare_commit, compare_file, shown
from strata_sae.pipeline.language_model.loading import compare_model
from strata_sae.pipeline.runs.record_files import changed_keys
from strata_sae.pipeline.settings import ModelSettings
from strata_sae.stores import Plan, StoreError
from strata_sae.stores.files.canonical import Json


class _Sources(BaseModel):
    """`provenance.corpus` of a plan."""

    sources: list[dict[str, JsonValue]]


class _PythonDocs(BaseModel):
    python: str


class _File(BaseModel):
    name: str
    sha256: str


class _Files(BaseModel):
    files: list[_File]
    files_not_read: list[str] | None = None
    """Of files that lie after the last one that a document came from; plans of older versions do not say."""


class _Commits(BaseModel):
    commits: list[str]


def check_inputs(path: Path, plan: Plan, config: ExtractConfig) -> list[str]:
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


def compare_inputs(plan: Plan, config: ExtractConfig) -> Comparison:
    """Every file, commit and version that decides the rows; the configs must be equal already.

    A file whose size, times and inode are as they were when it was hashed is not read again.
    """
    try:
        model = compare_model(config.model, recorded_model(plan))
    except ValidationError:
        model = Comparison(unknown=("model.path: the plan does not say what was read",))
    return Comparison.of([compare_corpus(plan, config), model])


def compare_corpus(plan: Plan, config: ExtractConfig) -> Comparison:
    """The part of `compare_inputs` that is text."""
    return Comparison.of(_corpus(plan, config))


def _corpus(plan: Plan, config: ExtractConfig) -> Iterator[Comparison]:
    for number, source in enumerate(config.corpus.sources):
        where = f"corpus.sources[{number}] ({source.kind})"
        try:
            recorded = _Sources.model_validate(plan.provenance.get("corpus")).sources[number]
            yield COMPARE[source.kind](source, recorded).under(where)
        except (ValidationError, IndexError):  # a plan may be anybody's, and its provenance hold anything
            yield Comparison(unknown=(f"{where}: the plan does not say what was read",))


def _python_docs(source: Source, recorded: Mapping[str, JsonValue]) -> Comparison:
    then, now = _PythonDocs.model_validate(recorded).python, platform.python_version()
    return Comparison() if then == now else Comparison((f"Python was {then}, is {now}",))


def _files(source: Source, recorded: Mapping[str, JsonValue]) -> Comparison:
    return _listed(_Files.model_validate(recorded), files_of(source))


def _dataset(source: Source, recorded: Mapping[str, JsonValue]) -> Comparison:
    assert isinstance(source, HubDataset)
    if "files" in recorded:
        return _files(source, recorded)
    if files_of(source):
        return Comparison((f"{source.path}: was a dataset of the hub, is a folder",))
    commits = _Commits.model_validate(recorded).commits
    if not commits:
        return Comparison(unknown=(f"{source.path}: no commit was recorded",))
    return Comparison.of(compare_commit("dataset", source.path, source.revision, commit) for commit in commits)


COMPARE: dict[str, Callable[[Source, Mapping[str, JsonValue]], Comparison]] = {
    "python_docs": _python_docs,
    "text": _files,
    "jsonl": _files,
    "parquet": _files,
    "dataset": _dataset,
}
"""How a kind of source is compared with what `documents.describe` recorded of it."""


def _listed(recorded: _Files, now: list[Path]) -> Comparison:
    """Files by name, those of one name in their order; then the order of all."""
    if not now:
        return Comparison(unknown=("none of its files is there",))
    then: dict[str, list[str | None]] = {}
    for record in recorded.files:
        then.setdefault(record.name, []).append(record.sha256)
    for name in recorded.files_not_read or []:
        then.setdefault(name, []).append(None)
    if recorded.files_not_read is None:  # such a plan names only the files that documents were drawn from
        now = [path for path in now if printable(path.name) in then]
    there: dict[str, list[Path]] = {}
    for path in now:
        there.setdefault(printable(path.name), []).append(path)
    names = dict.fromkeys([*then, *there])
    found = Comparison.of(part for name in names for part in _same_name(name, then.get(name, []), there.get(name, [])))
    before = [*(record.name for record in recorded.files), *(recorded.files_not_read or [])]
    if not found.differences and before != [printable(path.name) for path in now]:
        return Comparison(("its files come in another order",), found.unknown)
    return found


def _same_name(name: str, hashes: list[str | None], paths: list[Path]) -> Iterator[Comparison]:
    """`hashes`: None for a file that was there and not read, because `n_tokens` were drawn before it."""
    if len(hashes) != len(paths):
        yield Comparison((f"{name}: was {_there(len(hashes))}, is {_there(len(paths))}",))
    for sha256, path in zip(hashes, paths, strict=False):
        if sha256 is not None:
            yield compare_file(name, sha256, path)


def _there(n_files: int) -> str:
    return {0: "absent", 1: "there"}.get(n_files, f"there {n_files} times")


def model_changes(plan: Plan, now: Mapping[str, Json]) -> list[str]:
    """What differs between a plan's model and `now` (`Description.provenance`), a line each.

    Hooks are compared at sites that both have. Keys that the plan's version did not record yet are not compared.
    """
    recorded = recorded_model(plan)
    sites = _object(recorded, "hooks").keys() & _object(now, "hooks").keys()
    then, today = (
        {**record, "hooks": {site: _object(record, "hooks")[site] for site in sites}} for record in (recorded, now)
    )
    known = _object(recorded, "tokenizer")
    today["tokenizer"] = {key: value for key, value in _object(now, "tokenizer").items() if key in known}
    return changed_keys(then, {key: value for key, value in today.items() if key in then})


def recorded_model(plan: Plan) -> dict[str, Json]:
    """What a plan's provenance says of its model; empty where it says nothing."""
    return _object(plan.provenance, "model")


def recorded_settings(path: Path | str, plan: Plan, changes: Mapping[str, str | None]) -> ModelSettings:
    """The model that the plan of the store at `path` names, with other settings where `changes` are not None.

    Raises: StoreError where its config names none.
    """
    known = {name: value for name, value in changes.items() if value is not None}
    try:
        return ModelSettings.model_validate(_object(plan.config, "model") | known)
    except ValidationError as error:
        raise StoreError(f"{path}: its config does not say which model it was made with ({error})") from None


def _object(record: Mapping[str, Json], key: str) -> dict[str, Json]:
    value = record.get(key)
    return value if isinstance(value, dict) else {}
