"""The plan step: text is tokenised and every row of the store is fixed, before any weight of the model is read."""

import logging
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts import changed_keys
from pipeline.config import RunConfig
from pipeline.config.corpus import CorpusSettings
from pipeline.config.recorded import differences, recorded
from pipeline.errors import ConfigError
from pipeline.extractor.arrange import Arrangement, arrange
from pipeline.extractor.reuse import reusable
from pipeline.extractor.spool import spool_documents
from pipeline.language_model import (
    FAMILIES,
    Description,
    assumptions,
    describe,
    given_back_line,
    load_tokenizer,
    token_texts,
)
from stores.calibration import sample_spans
from stores.filesystem import FileSystem
from stores.format import MANIFEST, PLAN, TOKEN_ROWS_PER_CHUNK
from stores.lease import Lease, remove_dead
from stores.mixing import documents_per_window, predicted_variance_ratio
from stores.plan import Plan, read_plan
from stores.planning import Layout, create_store, layout
from stores.sizes import activation_bytes, token_map_bytes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Draft:
    """All that a plan says, computed and not yet written."""

    description: Description
    arrangement: Arrangement
    sizes: Layout
    tokenizer: Any


def planned(config: RunConfig, *, progress: bool) -> Plan:
    """The plan at the config's store path; made and written there if nothing is.

    Raises: ConfigError if the store there was made from another config, naming what differs; StoreError if something
        else lies there; ConfigError for anything the model or the corpus lacks.
    """
    path = config.store_path()
    if (path / PLAN).is_file():
        return _existing(path, config)
    if path.is_dir() and any(path.iterdir()):
        raise ConfigError(f"store.path: {path} is not empty and holds no store; choose another path")
    with _drafted(config, progress=progress) as draft:
        for line in describe_draft(config, draft).splitlines():
            log.info("%s", line)
        _check_space(path, _plan_bytes(config, draft))
        return _write(path, config, draft)


def describe_plan(config: RunConfig, *, progress: bool) -> str:
    """What the store would hold and cost, in words; writes nothing that stays."""
    found, reason = reusable(config)
    if found:
        return reason
    path = config.store_path()
    if (path / PLAN).is_file():
        plan = _existing(path, config)
        return f"{path}: already planned: {plan.n_rows:,} rows, {plan.n_units} units, plan {plan.id[:12]}"
    with _drafted(config, progress=progress) as draft:
        return describe_draft(config, draft)


class _drafted:
    """A draft, and the folder its tokens lie in for as long as it is needed."""

    def __init__(self, config: RunConfig, *, progress: bool) -> None:
        self._config, self._progress = config, progress

    def __enter__(self) -> Draft:
        config = self._config
        description = describe(config.model, config.store.sites)
        _check_context(config, description)
        _check_isolation(config, description)
        tokenizer = load_tokenizer(config.model)
        path = config.store_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{path.name}.tokens-"
        remove_dead(FileSystem(), path.parent, prefix)
        self._lease = Lease(FileSystem(), path.with_name(prefix + uuid.uuid4().hex[:12]))
        try:
            spool = spool_documents(config.corpus, tokenizer, self._lease.folder, self._progress)
            arrangement = arrange(spool, config.corpus, config.seed)
        except BaseException:
            self._lease.release()
            raise
        store = config.store
        sizes = layout(description.widths, store.encoding, store.chunk_bytes, store.shard_bytes)
        return Draft(description, arrangement, sizes, tokenizer)

    def __exit__(self, *exception: object) -> None:
        self._lease.release()


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


def _existing(path: Path, config: RunConfig) -> Plan:
    plan = read_plan(path)
    if changed := differences(plan.config, config.extraction()):
        raise ConfigError(
            f"{path}: this store was made from another config: {'; '.join(changed)}. "
            f"Give the run another name (or store.path), put the old values back, or delete that folder"
        )
    if not (path / MANIFEST).is_file():
        _check_model(config, path, plan)
    return plan


def _check_model(config: RunConfig, path: Path, plan: Plan) -> None:
    """A store is filled by one model: the same files, the same versions."""
    now, planned_with = describe(config.model, config.store.sites).provenance, plan.provenance["model"]
    if changed := changed_keys(planned_with, now):
        raise ConfigError(
            f"{path}: the model or its software is not what this store was planned with: {'; '.join(changed)}. "
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
        token_texts(draft.tokenizer, sorted(used)),
        **_fields(config, draft),
    )


def _fields(config: RunConfig, draft: Draft) -> dict[str, Any]:
    arrangement = draft.arrangement
    return {
        "n_rows": arrangement.n_rows,
        "n_documents": len(arrangement.order),
        "splits": arrangement.splits,
        "sites": draft.description.widths,
        "encoding": config.store.encoding,
        "compressor": config.store.compressor,
        "rows_per_chunk": draft.sizes.rows_per_chunk,
        "rows_per_unit": draft.sizes.rows_per_unit,
        "calibration": _calibration(config, arrangement),
        "config": recorded(config.extraction()),
        "provenance": {
            "model": draft.description.provenance,
            "probes": assumptions(config.model.dtype, isolated=config.corpus.isolate_documents),
            "corpus": arrangement.spool.provenance,
        },
    }


def _calibration(config: RunConfig, arrangement: Arrangement) -> dict[str, Any] | None:
    """Which rows int8's columns are calibrated on: whole sequences of the training split, spread evenly."""
    if config.store.encoding != "int8":
        return None
    return {"rows": sample_spans(arrangement.splits["train"], config.corpus.context_length)}


def _plan_bytes(config: RunConfig, draft: Draft) -> int:
    plan = Plan(files={}, **_fields(config, draft))
    return activation_bytes(plan) + token_map_bytes(plan)


def _check_space(path: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if needed_bytes > free:
        raise ConfigError(
            f"store.path: {path} needs {needed_bytes:,} bytes and its disk has {free:,} free; "
            f"lower corpus.n_tokens, store fewer sites, or set store.path to another disk"
        )


def describe_draft(config: RunConfig, draft: Draft) -> str:
    """The plan in words: rows, bytes, files, and how well the training window will mix documents."""
    plan = Plan(files={}, **_fields(config, draft))
    arrangement, training = draft.arrangement, config.training
    train_rows = arrangement.splits["train"][1]
    blocks = max(1, training.window_rows // plan.rows_per_chunk)
    starts = arrangement.starts[arrangement.starts <= train_rows]
    ratio = predicted_variance_ratio(starts, plan.rows_per_chunk, blocks, training.batch_size)
    documents = documents_per_window(starts, plan.rows_per_chunk, blocks)
    n_files = plan.n_units * 2 * len(plan.sites) + len(plan.token_specs)
    exact = "bytes" if plan.compressor == "none" else "bytes before compression"
    given_back = given_back_line(arrangement.spool.provenance["text_given_back"])
    lines = [
        f"model      {draft.description.provenance['model']} ({config.model.dtype})",
        f"tokens     {plan.n_rows:,} of {plan.n_documents:,} documents; {train_rows:,} to train on, "
        f"{plan.n_rows - train_rows:,} held out; {arrangement.spool.skipped_documents} short documents skipped",
        *([f"text       {given_back}"] if given_back else []),
        *(
            f"site       {site}: {width} wide, {plan.bytes_per_row(site):,} bytes a token"
            for site, width in plan.sites.items()
        ),
        f"store      {activation_bytes(plan):,} {exact}, and a token map of at most {token_map_bytes(plan):,}; "
        f"{n_files:,} data files",
        f"sequences  {_sequences(config.corpus)}",
        f"units      {plan.n_units} of {plan.rows_per_unit:,} rows, chunks of {plan.rows_per_chunk:,} rows",
        f"mixing     a window of {min(training.window_rows, train_rows):,} rows spans {documents:,.0f} documents; "
        f"variance of a batch mean {ratio:.2f} x a perfect shuffle's",
    ]
    return "\n".join(lines)


def _sequences(corpus: CorpusSettings) -> str:
    if corpus.mode == "sequential":
        return f"documents alone, the first {corpus.context_length} tokens of each"
    isolated = ", none of which sees another" if corpus.isolate_documents else " as one text"
    return f"{corpus.context_length} tokens of joined documents{isolated}"
