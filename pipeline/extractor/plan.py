"""The plan step: text is tokenised and every row of the store is fixed, before any weight of the model is read."""

import logging
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from strata_sae.pipeline.available import choose_device
from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.config.run import differences, recorded
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.arrange import Arrangement, arrange
from strata_sae.pipeline.extractor.described import Planned, describe_draft
from strata_sae.pipeline.extractor.inputs import check_inputs
from strata_sae.pipeline.extractor.limits import check_draft, check_settings
from strata_sae.pipeline.extractor.reuse import model_changes, reusable
from strata_sae.pipeline.extractor.runner import runner
from strata_sae.pipeline.extractor.spool import spool_documents
from strata_sae.pipeline.input_files import shown
from strata_sae.pipeline.language_model import (
    FAMILIES,
    Description,
    assumptions,
    describe,
    load_tokenizer,
    token_bytes,
)
from strata_sae.stores.files.canonical import as_object
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.files.locks import Lease, remove_dead
from strata_sae.stores.format.plan import MANIFEST, PLAN, TOKEN_ROWS_PER_CHUNK, Plan
from strata_sae.stores.format.plan_file import read_plan
from strata_sae.stores.writing.planning import Layout, create_store, layout
from strata_sae.stores.writing.units import sample_spans

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Draft:
    """All that a plan says, computed and not yet written."""

    description: Description
    arrangement: Arrangement
    sizes: Layout
    tokenizer: Any


def planned(config: RunConfig, *, show_progress: bool) -> Plan:
    """The plan at the config's store path; made and written there if nothing is.

    Raises: ConfigError if the store there was made from another config, naming what differs; StoreError if something
        else lies there; ConfigError for anything the model or the corpus lacks.
    """
    path = config.store_path()
    if (path / PLAN).is_file():
        plan, lines = _existing(path, config)
        for line in lines:
            log.info("%s", line)
        return plan
    if path.is_dir() and any(path.iterdir()):
        raise ConfigError(f"store.path: {path} is not empty and holds no store; choose another path")
    with _drafted(config, show_progress=show_progress) as draft:
        for line in _described(config, draft).splitlines():
            log.info("%s", line)
        return _write(path, config, draft)


def describe_plan(config: RunConfig, *, show_progress: bool) -> str:
    """What the store would hold and cost, in words; writes nothing that stays."""
    reuse = reusable(config)
    if reuse.stores:
        return "\n".join(reuse.lines)
    path = config.store_path()
    if (path / PLAN).is_file():
        plan, lines = _existing(path, config)
        found = f"{path}: already planned: {plan.n_rows:,} rows, {plan.n_units} units, plan {plan.id[:12]}"
        return "\n".join([found, *lines])
    with _drafted(config, show_progress=show_progress) as draft:
        return "\n".join([*reuse.lines, _described(config, draft)])


class _drafted:
    """A draft, and the folder its tokens lie in for as long as it is needed."""

    def __init__(self, config: RunConfig, *, show_progress: bool) -> None:
        self._config, self._show_progress = config, show_progress

    def __enter__(self) -> Draft:
        config = self._config
        choose_device(config.model.device, "model.device")
        description = describe(config.model, config.store.sites)
        _check_context(config, description)
        _check_isolation(config, description)
        store = config.store
        sizes = layout(description.widths, store.encoding, store.chunk_bytes, store.shard_bytes)
        check_settings(Plan(files={}, **_stand_in(config, description, sizes)))
        tokenizer = load_tokenizer(config.model)
        path = config.store_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{path.name}.tokens-"
        remove_dead(FileSystem(), path.parent, prefix)
        self._lease = Lease(FileSystem(), path.with_name(prefix + uuid.uuid4().hex[:12]))
        try:
            spool = spool_documents(config.corpus, tokenizer, self._lease.folder, self._show_progress)
            arrangement = arrange(spool, config.corpus, config.seed)
        except BaseException:
            self._lease.release()
            raise
        return Draft(description, arrangement, sizes, tokenizer)

    def __exit__(self, *exception: object) -> None:
        self._lease.release()


def _described(config: RunConfig, draft: Draft) -> str:
    """The draft in words. Raises: ConfigError, after logging them, where no such store can be filled here."""
    plan = Plan(files={}, **_fields(config, draft))
    text = describe_draft(Planned(config, plan, draft.arrangement))
    try:
        check_draft(config.store_path(), plan, draft.arrangement, draft.description)
    except ConfigError:
        log.info("%s", text)
        raise
    return text


def _check_context(config: RunConfig, description: Description) -> None:
    asked, longest = config.corpus.context_length, description.max_positions
    if longest is not None and asked > longest:
        raise ConfigError(
            f"corpus.context_length: {asked} tokens, but the model was made for {longest} at most; "
            f"set it to {longest} or less"
        )


def _check_isolation(config: RunConfig, description: Description) -> None:
    if config.corpus.isolate_documents and not description.isolates:
        architecture, attention = (description.provenance[key] for key in ("architecture", "attention"))
        raise ConfigError(
            f"corpus.isolate_documents: true is not supported by {architecture} with {attention} attention (it is by "
            f"{', '.join(sorted(FAMILIES))} with sdpa or eager); set it to false, or use mode: sequential"
        )


def _existing(path: Path, config: RunConfig) -> tuple[Plan, list[str]]:
    """The plan that lies there, and what could not be compared with what it was made from, a line."""
    plan = read_plan(path)
    if changed := differences(plan.config, config.extraction()):
        raise ConfigError(
            f"{path}: this store was made from another config: {'; '.join(changed)}. "
            f"Give the run another name (or store.path), put the old values back, or delete that folder"
        )
    lines = check_inputs(path, plan, config)
    if not (path / MANIFEST).is_file():
        _check_model(config, path, plan)
    return plan, lines


def _check_model(config: RunConfig, path: Path, plan: Plan) -> None:
    """A store is filled by one model: the same files, the same versions."""
    now = describe(config.model, config.store.sites).provenance
    if changed := model_changes(as_object(plan.provenance["model"]), now):
        raise ConfigError(
            f"{path}: the model or its software is not what this store was planned with: {shown(tuple(changed))}. "
            f"Go back to what it was, or delete the folder and extract again"
        )


def _write(path: Path, config: RunConfig, draft: Draft) -> Plan:
    arrangement = draft.arrangement
    used: set[int] = set()
    for block in arrangement.blocks(TOKEN_ROWS_PER_CHUNK):
        used.update(np.unique(block["token_id"]).tolist())
    return create_store(
        path,
        arrangement.blocks(TOKEN_ROWS_PER_CHUNK),
        token_bytes(draft.tokenizer, sorted(used)),
        **_fields(config, draft),
    )


def _fields(config: RunConfig, draft: Draft) -> dict[str, Any]:
    arrangement = draft.arrangement
    return _stand_in(config, draft.description, draft.sizes) | {
        "n_rows": arrangement.n_rows,
        "n_documents": len(arrangement.order),
        "splits": arrangement.splits,
        "calibration": _calibration(config, arrangement),
        "provenance": {
            "model": draft.description.provenance,
            "probes": assumptions(config.model.dtype, isolated=config.corpus.isolate_documents),
            "corpus": arrangement.spool.provenance,
            "runner": runner(),
        },
    }


def _stand_in(config: RunConfig, description: Description, sizes: Layout) -> dict[str, Any]:
    """The fields of a plan as far as they are known without the text; of one unit of rows."""
    return {
        "n_rows": sizes.rows_per_unit,
        "n_documents": 1,
        "splits": {"train": (0, sizes.rows_per_unit)},
        "sites": description.widths,
        "encoding": config.store.encoding,
        "compressor": config.store.compressor,
        "rows_per_chunk": sizes.rows_per_chunk,
        "rows_per_unit": sizes.rows_per_unit,
        "config": recorded(config.extraction()),
        "provenance": {"model": description.provenance},
    }


def _calibration(config: RunConfig, arrangement: Arrangement) -> list[tuple[int, int]] | None:
    """Which rows int8's columns are calibrated on: whole sequences of the training split, spread evenly."""
    if config.store.encoding != "int8":
        return None
    return sample_spans(arrangement.splits["train"], config.corpus.context_length)
