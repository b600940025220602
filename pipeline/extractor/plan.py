"""The plan step: text is tokenised and every row of the store is fixed, before any weight of the model is read."""

import logging
import platform
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.available import choose_device
from strata_sae.pipeline.config.run import ExtractConfig, differences, recorded
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.costs import check_draft, check_settings, describe_draft
from strata_sae.pipeline.extractor.provenance import check_inputs, model_changes
from strata_sae.pipeline.extractor.spool import Arrangement, arrange, spool_documents
from strata_sae.pipeline.extractor.unembedding import told, unembedding_bytes, unembedding_files
from strata_sae.pipeline.input_files import shown
from strata_sae.pipeline.language_model.loading import Description, describe, load_tokenizer
from strata_sae.pipeline.language_model.probe import assumptions
from strata_sae.pipeline.language_model.sites import FAMILIES
from strata_sae.pipeline.language_model.tokens_text import token_bytes
from strata_sae.pipeline.language_model.transformers_library import Tokenizer
from strata_sae.pipeline.language_model.unembedding import FoundHead, find_head
from strata_sae.pipeline.once import made_once
from strata_sae.pipeline.reading.document_columns import DOCUMENT_COLUMNS
from strata_sae.stores import (
    MANIFEST,
    PLAN,
    TOKEN_ROWS_PER_CHUNK,
    Layout,
    Plan,
    PlanFields,
    committed_units,
    create_store,
    layout,
    read_plan,
    sample_spans,
)
from strata_sae.stores.files.canonical import Json
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.files.locks import Lease, remove_dead

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Draft:
    """All that a plan says, computed and not yet written."""

    description: Description
    arrangement: Arrangement
    sizes: Layout
    tokenizer: Tokenizer
    head: FoundHead | None
    """The model's, where the store is to keep it."""


def planned(config: ExtractConfig, *, show_progress: bool) -> Plan:
    """The plan at the config's store path; made and written there if nothing is, by one process: others wait for it.

    Raises: ConfigError if the store there was made from another config, naming what differs; StoreError if something
        else lies there; ConfigError for anything the model or the corpus lacks.
    """
    path = config.store_path()

    def found_there() -> Plan | None:
        path.parent.mkdir(parents=True, exist_ok=True)  # another process whose plan failed may have removed it
        return _found(path, config)

    def make() -> Plan:
        with _drafted(config, show_progress=show_progress) as draft:
            for line in _described(config, draft).splitlines():
                log.info("%s", line)
            return _write(path, config, draft)

    found = _found(path, config)
    if found is not None:
        return found
    with _parent_of(path):
        planner = path.with_name(f".{path.name}.planner")
        return made_once(planner, f"{path}: the plan", found_there, make)


def _found(path: Path, config: ExtractConfig) -> Plan | None:
    """The plan that is there, if one is."""
    holds_something = path.is_dir() and any(path.iterdir())  # looked at first: a plan comes together with its folder
    if not (path / PLAN).is_file():
        if holds_something:
            raise ConfigError(f"store.path: {path} is not empty and holds no store; choose another path")
        return None
    plan, lines = _existing(path, config)
    for line in lines:
        log.info("%s", line)
    return plan


@contextmanager
def _parent_of(path: Path) -> Iterator[None]:
    """Inside the block the folder that a store will lie in is there; one made here is removed if it stays empty."""
    was_there = path.parent.is_dir()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        if not was_there:
            with suppress(OSError):  # a store is in it now, or what another process makes
                path.parent.rmdir()


class Described(NamedTuple):
    """A plan in words, and how many of its tokens the model has yet to run over."""

    lines: list[str]
    tokens_left: int


def described(config: ExtractConfig, *, show_progress: bool) -> Described:
    """The lines that `planned` would log; writes nothing that stays. Raises: as `planned`."""
    path = config.store_path()
    if (path / PLAN).is_file():
        plan, lines = _existing(path, config)
        told = f"{path}: already planned: {plan.n_rows:,} rows, {plan.n_units} units, plan {plan.id[:12]}"
        missing = set(range(plan.n_units)) - committed_units(path, plan)
        return Described([told, *lines], sum(stop - start for start, stop in map(plan.unit_rows, missing)))
    with _drafted(config, show_progress=show_progress) as draft:
        return Described(_described(config, draft).splitlines(), draft.arrangement.n_rows)


@contextmanager
def _drafted(config: ExtractConfig, *, show_progress: bool) -> Iterator[Draft]:
    """A draft; the folder that its tokens lie in is removed when the block ends."""
    choose_device(config.model.device, "model.device")
    description = describe(config.model, config.store.sites)
    _check_corpus(config, description)
    store = config.store
    head = find_head(config.model) if store.unembedding else None
    sizes = layout(description.widths, store.encoding, store.chunk_bytes, store.shard_bytes)
    check_settings(Plan(files={}, **_fields(config, description, sizes)))
    tokenizer = load_tokenizer(config.model)
    path = config.store_path()
    prefix = f".{path.name}.tokens-"
    with _parent_of(path):
        remove_dead(FileSystem(), path.parent, prefix)
        with Lease(FileSystem(), path.with_name(prefix + uuid.uuid4().hex[:12])) as folder:
            spool = spool_documents(config.corpus, tokenizer, folder, show_progress, config.seed)
            yield Draft(description, arrange(spool, config.corpus, config.seed), sizes, tokenizer, head)


def _described(config: ExtractConfig, draft: Draft) -> str:
    """The draft in words. Raises: ConfigError, after logging them, where no such store can be filled here."""
    plan = Plan(files={}, **_fields(config, draft.description, draft.sizes, draft.arrangement))
    text = describe_draft(config, str(draft.description.provenance["model"]), plan, draft.arrangement)
    beside = 0 if draft.head is None else unembedding_bytes(draft.head)
    text += "" if draft.head is None else f"\n{'unembedding':<11} {told(draft.head)}"
    try:
        check_draft(config.store_path(), plan, draft.arrangement, draft.description, beside)
    except ConfigError:
        log.info("%s", text)
        raise
    return text


def _check_corpus(config: ExtractConfig, description: Description) -> None:
    """Raises: ConfigError where the model cannot see sequences of such a length, or such documents apart."""
    asked, longest = config.corpus.context_length, description.max_positions
    if longest is not None and asked > longest:
        raise ConfigError(
            f"corpus.context_length: {asked} tokens, but the model was made for {longest} at most; "
            f"set it to {longest} or less"
        )
    if config.corpus.isolate_documents and not description.isolates:
        architecture, attention = (description.provenance[key] for key in ("architecture", "attention"))
        raise ConfigError(
            f"corpus.isolate_documents: true is not supported by {architecture} with {attention} attention (it is by "
            f"{', '.join(sorted(FAMILIES))} with sdpa or eager); set it to false, or use mode: sequential"
        )


def _existing(path: Path, config: ExtractConfig) -> tuple[Plan, list[str]]:
    """The plan at `path`, and a line where its inputs could not be compared with what they are now."""
    plan = read_plan(path)
    if changed := differences(plan.config, config.extraction()):
        raise ConfigError(
            f"{path}: this store was made from another config: {'; '.join(changed)}. "
            f"Give the run another name (or store.path), put the old values back, or delete that folder"
        )
    lines = check_inputs(path, plan, config)
    if not (path / MANIFEST).is_file():  # it is filled by one model: the same files, the same versions
        now = describe(config.model, config.store.sites).provenance
        if changed := model_changes(plan, now):
            raise ConfigError(
                f"{path}: the model or its software is not what this store was planned with: {shown(tuple(changed))}. "
                f"Go back to what it was, or delete the folder and extract again"
            )
    return plan, lines


def _write(path: Path, config: ExtractConfig, draft: Draft) -> Plan:
    arrangement = draft.arrangement
    used: set[int] = set()
    for block in arrangement.blocks(TOKEN_ROWS_PER_CHUNK):
        used.update(np.unique(block["token_id"]).tolist())
    return create_store(
        path,
        arrangement.blocks(TOKEN_ROWS_PER_CHUNK),
        token_bytes(draft.tokenizer, sorted(used)),
        extras=_extras(config, draft),
        **_fields(config, draft.description, draft.sizes, arrangement),
    )


def _extras(config: ExtractConfig, draft: Draft) -> dict[str, bytes]:
    """The files beside the rows."""
    head = unembedding_files(config.model, draft.head, draft.tokenizer) if draft.head else {}
    columns = draft.arrangement.spool.columns
    return head if columns is None else {**head, DOCUMENT_COLUMNS: columns.to_bytes()}


class _Fields(PlanFields):
    """All fields of a plan but `files`."""

    n_rows: int
    n_documents: int


def _fields(
    config: ExtractConfig, description: Description, sizes: Layout, arrangement: Arrangement | None = None
) -> _Fields:
    """The fields of a plan; where there is no arrangement yet, those of a plan with one unit of rows."""
    one_unit = {"train": (0, sizes.rows_per_unit)}
    calibration = None
    if arrangement is not None and config.store.encoding == "int8":
        # int8's columns are calibrated on whole sequences of the training split, spread evenly.
        calibration = sample_spans(arrangement.splits["train"], config.corpus.context_length)
    provenance: dict[str, Json] = {"model": description.provenance}
    if arrangement is not None:
        probes = assumptions(config.model.dtype, isolated=config.corpus.isolate_documents)
        provenance |= {"probes": {**probes}, "corpus": arrangement.spool.provenance, "runner": runner()}
    return {
        "n_rows": arrangement.n_rows if arrangement else sizes.rows_per_unit,
        "n_documents": len(arrangement.order) if arrangement else 1,
        "splits": arrangement.splits if arrangement else one_unit,
        "sites": description.widths,
        "encoding": config.store.encoding,
        "compressor": config.store.compressor,
        "rows_per_chunk": sizes.rows_per_chunk,
        "rows_per_unit": sizes.rows_per_unit,
        "config": recorded(config.extraction()),
        "provenance": provenance,
        "calibration": calibration,
    }


PACKAGES = ("strata-sae", "numpy", "numcodecs", "zstandard", "google-crc32c")
"""What writes the bytes of a store. The model's own software is in `provenance.model.software`."""


def runner() -> dict[str, Json]:
    """Versions of what a store is written by: {python, packages: {name: version, or null if it is not installed}}."""
    return {"python": platform.python_version(), "packages": {name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
